"""Names out of manifests: those of files in the folder pass as they are, all others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.errors import ConfigError
from tamis.pipeline.storage.safe_names import safe_name

GOOD = [
    "manifest.json",
    "kept/000001-0123456789abcdef.parquet",
    "artifact/a b.safetensors",
    "größe/中文.parquet",
    "a..b",
    "...",
]
BAD = [
    *(
        "",
        "/",
        "/etc/passwd",
        "../x",
        "kept/../../x",
        "kept/..",
        ".",
        "./x",
        "kept//x",
        "kept/",
        "..\\x",
        "C:/x",
        "C:\\x",
    ),
    *(
        "s3://bucket/key",
        "file:///etc/passwd",
        "~/x",
        "~root/x",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "a\u202eb",
        "\ud800",
        "x" * 5000,
    ),
    *(None, 5, True, 1.5, ["kept"], {"name": "x"}, b"kept/x"),
]


@pytest.mark.parametrize("name", GOOD)
def test_names_of_files_below_pass(name: str) -> None:
    assert safe_name(name, "manifest.json") == name


@pytest.mark.parametrize("name", BAD, ids=lambda name: ascii(name)[:30])
def test_other_names_are_refused_in_one_printable_line(name: Any) -> None:
    with pytest.raises(ConfigError, match=r"^manifest\.json: ") as caught:
        safe_name(name, "manifest.json")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 700


@given(parts=st.lists(st.one_of(st.text(max_size=5), st.sampled_from(["..", ".", "", "~", "a"])), max_size=6))
def test_a_name_that_passes_stays_below_its_folder(parts: list[str]) -> None:
    try:
        name = safe_name("/".join(parts), "manifest.json")
    except ConfigError:
        return
    root = Path("/somewhere/out")
    assert (root / name).resolve().is_relative_to(root)
    assert (root / name).resolve() != root
