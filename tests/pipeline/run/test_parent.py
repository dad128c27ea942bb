"""A run that cannot be the parent of a selection is refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frozen_samples import finish

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run.parent import read_parent
from tamis.pipeline.storage.store import Store

WHOLE: dict[str, Any] = {"created": "2026-11-29T00:00:00+00:00", "selected_by": "larf", "quarantine_codes": {}}


def refusal(folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_parent(Store(str(folder)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_there_is_no_run(tmp_path: Path) -> None:
    assert "holds no finished run" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["_work/run.json", "incomplete.json"])
def test_it_is_not_finished(tmp_path: Path, name: str) -> None:
    Store(str(tmp_path)).write_facts(name, {"fingerprint": {}})
    assert "is not finished; run its command again first" in refusal(tmp_path)


def test_it_masks_tokens(tmp_path: Path) -> None:
    finish(tmp_path, [], kind="tokens", method="toss-pro")
    said = refusal(tmp_path)
    assert "is of toss-pro, which masks tokens" in said
    assert "toss.discard" in said


def test_its_manifest_is_damaged(tmp_path: Path) -> None:
    finish(tmp_path, [], **WHOLE)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("larf", "saft"))
    assert "manifest.json is damaged" in refusal(tmp_path)


def test_it_has_no_artifact(tmp_path: Path) -> None:
    finish(tmp_path, [], **WHOLE)
    assert "holds no artifact/frozen.json" in refusal(tmp_path)


@pytest.mark.parametrize("files", [[{"name": "../x"}], [{"bytes": 1}], [None]])
def test_its_list_of_files_is_none(tmp_path: Path, files: list[Any]) -> None:
    Store(str(tmp_path)).write_facts("manifest.json", {"complete": True, "fingerprint": {}, "files": files, **WHOLE})
    assert "select: " in refusal(tmp_path) or "manifest.json" in refusal(tmp_path)
