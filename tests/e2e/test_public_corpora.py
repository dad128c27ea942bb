"""Public layouts through whole runs: the plan marks the scored answer, and every row comes back as it was."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import datasets
import pytest
from command import curate, tamis
from outputs import write_jsonl
from public_layouts import LAYOUTS

pytestmark = pytest.mark.long

NAMED = (
    "OpenAI fine-tuning with tools", "ShareGPT with system and tools", "Alpaca with history", "TRL preference", "KTO",
    "LLaMA-Factory v1", "UltraChat", "OASST flattened to a list",
)  # fmt: skip
ROWS = 8
SHOWS_TOOLS = """
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}{% for call in message.tool_calls or [] %}
<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}"""
"""The rows of two layouts have tools, which a template must show."""


@pytest.mark.parametrize("name", NAMED)
def test_a_public_layout(name: str, tmp_path: Path, tiny_model: Path, ray_address: str) -> None:
    layout = LAYOUTS[name]
    rows = [{**varied(layout.row, layout.scored, number), "number": number} for number in range(ROWS)]
    write_jsonl(tmp_path / "data.jsonl", rows)
    (tmp_path / "template.jinja").write_text(SHOWS_TOOLS)
    flags: list[object] = ["--input", tmp_path / "data.jsonl", "--model", tiny_model, "--method", "saft"]
    flags += ["--drop-count", 2, "--output", tmp_path / "out", "--set", "shard_rows=3"]
    flags += ["--set", f"model.template={tmp_path}/template.jinja"]

    planned = tamis("plan", *flags, cwd=tmp_path)
    assert planned.rc == 0, planned.output
    shown = "\n".join(line[4:] for line in planned.stdout.splitlines() if line.startswith("  | "))
    assert [text.strip() for text in re.findall(r">>>(.*?)<<<", shown, re.DOTALL)] == [layout.scored], shown

    curate(*flags, cwd=tmp_path, address=ray_address)
    found = loaded(tmp_path / "out")
    assert sorted(row["number"] for row in found) == list(range(ROWS))
    for row in found:
        given = rows[row["number"]]
        assert json.dumps({key: row[key] for key in given}) == json.dumps(given)
        assert all(row[key] is None for key in row.keys() - given.keys())


def varied(row: dict[str, Any], scored: str, number: int) -> dict[str, Any]:
    """The row with a longer answer; a method that sees no differences has nothing to fit."""
    found: dict[str, Any] = json.loads(json.dumps(row).replace(scored, scored + " Yes." * number))
    return found


def loaded(out: Path) -> list[dict[str, Any]]:
    """The rows of kept/ and dropped/ as `datasets` reads them, without the columns of dropped/ that are ours."""
    kept = list(datasets.load_dataset(str(out), split="train", cache_dir=str(out.parent / "cache")))
    files = sorted(map(str, (out / "dropped").glob("*.parquet")))
    dropped = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(out.parent / "cache"))
    return kept + [{key: row[key] for key in kept[0]} for row in dropped]
