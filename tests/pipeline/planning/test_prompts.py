"""The over-rejection prompts: any format of the input, and one clear line about a file that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plan_jobs import lines_of

from tamis.operators.references import over_rejection_path
from tamis.pipeline.errors import InputError
from tamis.pipeline.planning.prompts import read_prompts

TEXTS = ("How do I kill a process?", "Où tirer une bonne bière ?")


def test_the_shipped_prompts() -> None:
    made = read_prompts(None, {"endpoint_url": "http://127.0.0.1:9"})
    rows = [json.loads(line) for line in over_rejection_path().read_text("utf-8").splitlines()]
    assert list(made.texts) == [row["prompt"] for row in rows]
    assert len(made.texts) == 120
    assert made.name == "over_rejection.jsonl"


def test_every_format_gives_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"prompt": text, "topic": "t"} for text in TEXTS]
    (tmp_path / "a.jsonl").write_bytes(lines_of(rows))
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.csv").write_text("topic,prompt\n" + "".join(f't,"{text}"\n' for text in TEXTS), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    made = [read_prompts(str(path), {}) for path in sorted(tmp_path.iterdir())]
    assert [prompts.texts for prompts in made] == [TEXTS] * 4
    assert len({prompts.digest for prompts in made}) == 1
    assert [prompts.name for prompts in made] == ["a.jsonl", "b.json", "c.csv", "d.parquet"]


@pytest.mark.parametrize("column", ["prompt", "instruction", "question", "text"])
def test_columns(tmp_path: Path, column: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(lines_of([{"id": 1, column: text} for text in TEXTS]))
    assert read_prompts(str(tmp_path / "a.jsonl"), {}).texts == TEXTS


def test_the_digest_is_of_the_texts_and_their_order(tmp_path: Path) -> None:
    def digest(*texts: str) -> str:
        (tmp_path / "a.jsonl").write_bytes(lines_of([{"prompt": text} for text in texts]))
        return read_prompts(str(tmp_path / "a.jsonl"), {}).digest

    assert len({digest("a", "b"), digest("b", "a"), digest("ab"), digest("a", "b", "b")}) == 4


SECRET = "kanarienvogel"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "the file is empty"),
        ([b""], "holds no rows"),
        ([{"prompt": SECRET}, {"prompt": ""}], "1 row(s) hold no prompt: row 1: no_prompt: its prompt is empty"),
        ([{"prompt": None}], "its prompt is empty"),
        ([{"prompt": " \n"}], "its prompt is empty"),
        ([{"prompt": [SECRET]}], "its prompt is not a text"),
        ([{"ask": SECRET}], "it has none of the columns prompt, instruction, question, text"),
        ([{"prompt": "a"}, f'{{"prompt": "{SECRET}'.encode()], "row 1: malformed_json"),
        ([b'{"prompt": "\\ud800"}'], "row 0: invalid_utf8"),
        ([{"prompt": ""}] * 9, "9 row(s) hold no prompt: row 0: no_prompt"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, rows: list[Any], said: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(lines_of(rows))
    message = refusal(path)
    assert "p.jsonl" in message
    assert said in message
    assert SECRET not in message


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name, said in (
        ("missing.jsonl", "no such file"),
        ("p.txt", "the ending does not say what it is; let it end in one of these (jsonl,"),
        ("broken.parquet", "not a whole parquet file"),
    ):
        assert said in refusal(tmp_path / name)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_prompts(str(path), {})
    message = str(caught.value)
    assert message.startswith("larf.over_rejection_prompts: ")
    assert "\n" not in message
    return message
