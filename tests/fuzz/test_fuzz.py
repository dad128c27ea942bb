"""The fuzz targets, shortly: by hypothesis, and by atheris in a process of its own. `make fuzz` takes longer."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS

few = settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
keys = st.sampled_from(
    [
        *(
            "messages",
            "conversations",
            "role",
            "content",
            "from",
            "value",
            "prompt",
            "response",
            "text",
            "chosen",
            "input",
        ),
        *("instruction", "output", "system", "fingerprint", "files", "name", "shard", "riskiest", "row", "key", "cell"),
        *("blocks", "chosen", "block", "search", "fisher", "kind", "counts", "dialect", "columns", "job"),
    ]
)
words = st.sampled_from(
    ["user", "assistant", "tokens", "000000-x", "../../etc/passwd", "Human: a\n\nAssistant: b", "pair"]
)
trees: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), words),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(keys | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=25,
)
bits = st.sampled_from(
    [b'{"a": 1}', b'{"a": "x"}', b"[", b"]", b",", b'"', b"\n", b"\r", b" ", b"\\", b"\xff", b"\xef\xbb\xbf"]
)
files = st.one_of(st.binary(max_size=200), st.lists(bits, max_size=40).map(b"".join))


@few
@given(head=st.binary(min_size=4, max_size=4), data=files, array=st.booleans())
def test_reader(head: bytes, data: bytes, array: bool) -> None:
    TARGETS["reader"](head + (b"[" + data + b"]" if array else data))


@few
@given(rows=st.lists(st.dictionaries(keys, trees, max_size=6), max_size=4))
def test_dialect(rows: list[Any]) -> None:
    TARGETS["dialect"](json.dumps(rows).encode())


odd = st.sampled_from(
    ["<|end|>", "<|user|>", "\n", " ", "\x00", "\u202e", "é", "中", "😀", "e\u0301", chr(0x100000), "</think>", "x"]
)


@few
@given(texts=st.lists(st.one_of(st.text(max_size=20), st.lists(odd, max_size=12).map("".join)), max_size=8))
def test_spans(texts: list[str]) -> None:
    TARGETS["spans"]("|".join(texts).encode("utf-8", "ignore"))


@few
@given(tree=trees)
def test_manifest(tree: Any) -> None:
    TARGETS["manifest"](json.dumps(tree).encode())
    TARGETS["manifest"](json.dumps({"fingerprint": {}, "riskiest": tree, "files": tree}).encode())


@pytest.mark.parametrize("data", [b"[" * 200_000, b"\xff", b"", b'{"fingerprint": {"a": 1}}', b"null", b"9" * 5000])
def test_a_manifest_of_someone_else(data: bytes) -> None:
    TARGETS["manifest"](data)


@pytest.mark.parametrize("target", [*TARGETS])
def test_coverage_guided(target: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris: pip install atheris (it has no wheels for some platforms)")
    script = Path(__file__).with_name("coverage_guided.py")
    command = [sys.executable, str(script), "--target", target, "--seconds", "3"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
