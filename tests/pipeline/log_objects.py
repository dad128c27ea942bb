"""The lines of `--log-format json`, each checked: strict JSON, the common keys, a known event and its fields."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from tamis.pipeline.terminal.events import COMMON, FIELDS

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def log_objects(text: str) -> list[dict[str, Any]]:
    """Every line as an object. AssertionError for a line that is none, or not as events.py declares it."""
    assert text.isascii()
    assert text.endswith("\n") or not text
    return [_checked(line) for line in text.splitlines()]


def _checked(line: str) -> dict[str, Any]:
    def never(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON: {line}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), line
        return dict(pairs)

    found = json.loads(line, parse_constant=never, object_pairs_hook=unique)
    assert list(found)[: len(COMMON)] == list(COMMON), line
    assert TIME.fullmatch(found["time"]), line
    assert found["level"] in ("info", "warning", "error"), line
    assert found["event"] in FIELDS, line
    assert found["run"] is None or UUID.fullmatch(found["run"]), line
    assert UUID.fullmatch(found["command_id"]), line
    assert found["stage"] is None or isinstance(found["stage"], str), line
    assert isinstance(found["message"], str), line
    assert set(found) - set(COMMON) <= set(FIELDS[found["event"]]), line
    return found
