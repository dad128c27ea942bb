"""Mistakes of the user and in the data: the message, the exit code, and that no message contains sample text."""

from __future__ import annotations

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Ran, curate, tamis
from outputs import Row, check_whole, rows_of, sentence, snapshot, write_jsonl

CANARY = "kanarienvogel"
"""Occurs in every row; must not occur in any message, log, manifest or artifact."""


def rows(count: int, seed: int) -> list[Row]:
    chance = random.Random(seed)
    return [
        {"prompt": f"{CANARY} {sentence(chance)}", "response": f"{sentence(chance)} {CANARY} {i}"} for i in range(count)
    ]


def one_line(ran: Ran, *words: str) -> None:
    """Exactly one line on stderr, with these words; nothing on stdout."""
    [line] = ran.stderr.splitlines()
    assert all(word in line for word in words), line
    assert ran.stdout == ""


def refused(ran: Ran, rc: int, *words: str) -> None:
    assert ran.rc == rc, ran.output
    for word in words:
        assert word in ran.stderr, ran.stderr
    assert CANARY not in ran.output, ran.output


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--set", "max_tokenz=100"], ["unknown key max_tokenz", "did you mean max_tokens?"]),
        (["--set", "larf.layr=1"], ["unknown key larf.layr", "did you mean larf.layer?"]),
        (["--metod", "larf"], ["--metod", "--method"]),
        (["--set", "selection.drop=1.5"], ["selection.drop", "1.5"]),
        (["--method", "lorf"], ["method", "lorf", "larf"]),
    ],
)
def test_unknown_keys_and_flags(flags: list[str], words: list[str], tmp_path: Path) -> None:
    usual = ["--input", "x.jsonl", "--output", "out", "--model", "m"]
    usual += [] if "--method" in flags else ["--method", "larf"]
    ran = tamis("curate", *usual, *flags, cwd=tmp_path)
    assert ran.rc == 2, ran.output
    one_line(ran, "error: ", *words)
    assert not list(tmp_path.iterdir())


def test_an_unknown_key_in_a_job_file(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("input: a.jsonl\noutput: out\nmodel: m\nmethod: saft\nshard_row: 3\n")
    ran = tamis("plan", "job.yaml", cwd=tmp_path)
    assert ran.rc == 2
    one_line(ran, "error: unknown key shard_row; did you mean shard_rows?")


# --- files --------------------------------------------------------------------------------------------------------


def plan(folder: Path, model: Path, *flags: object) -> Ran:
    return tamis("plan", "--model", model, "--method", "saft", "--output", folder / "out", *flags, cwd=folder)


def test_missing_files_and_empty_globs_are_all_named(tiny_model: Path, tmp_path: Path) -> None:
    good = write_jsonl(tmp_path / "good.jsonl", rows(5, seed=0))
    (tmp_path / "zero.jsonl").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    # As after a glob that the shell expanded: files after the first one belong to --input too.
    flags = ["--input", good, "zero.jsonl", "--input", "missing.jsonl", "--input", "none/*.jsonl"]
    flags += ["--input", "empty", "--input", write_jsonl(tmp_path / "odd.txt", rows(5, seed=0))]
    words = ["5 of the inputs", "missing.jsonl", "none/*.jsonl", "zero.jsonl", "empty: a folder without", "odd.txt"]
    if os.geteuid() != 0:
        locked = write_jsonl(tmp_path / "locked.jsonl", rows(5, seed=0))
        locked.chmod(0)
        flags += ["--input", locked]
        words[0], words[-1] = "6 of the inputs", "locked.jsonl: no permission"
    ran = plan(tmp_path, tiny_model, *flags)
    refused(ran, 3, *words)
    assert "good.jsonl" not in ran.stderr


def test_files_cut_off_are_all_named_by_the_plan(tiny_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    whole = write_jsonl(data / "a.jsonl", rows(300, seed=1)).read_bytes()
    packed = gzip.compress(whole)
    (data / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    pq.write_table(pa.Table.from_pylist(rows(300, seed=2)), data / "c.parquet")
    parquet = (data / "c.parquet").read_bytes()
    (data / "c.parquet").write_bytes(parquet[: len(parquet) // 2])
    (data / "d.json").write_text(json.dumps(rows(30, seed=3))[:-1])
    (data / "e.csv").write_text(f'prompt,response\n{CANARY},"{CANARY} and never closed\n')
    with pa.OSFile(str(data / "f.jsonl.zst"), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as stream:
        stream.write(whole)
    zst = (data / "f.jsonl.zst").read_bytes()
    (data / "f.jsonl.zst").write_bytes(zst[: len(zst) // 2])
    ran = plan(tmp_path, tiny_model, "--input", data)
    refused(ran, 3, "5 of the 6 input files", "b.jsonl.gz", "c.parquet", "d.json", "e.csv", "f.jsonl.zst")
    assert "a.jsonl" not in ran.stderr
    assert not (tmp_path / "out").exists()


def test_the_plan_says_what_is_not_understood(tiny_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "data" / "a.jsonl", [{"left": CANARY, "right": CANARY}] * 3)
    ran = plan(tmp_path, tiny_model, "--input", tmp_path / "data")
    refused(ran, 3, "a.jsonl", "left, right", "input.columns")
    ran = plan(tmp_path, tiny_model, "--input", tmp_path / "data", "--set", "input.columns.text=middle")
    refused(ran, 3, "a.jsonl", "middle")


def test_a_folder_of_something_else_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    corpus = write_jsonl(tmp_path / "a.jsonl", rows(20, seed=4))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    refused(plan(tmp_path, tiny_model, "--input", corpus), 2, "not empty", "thesis.txt")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


# --- rows ---------------------------------------------------------------------------------------------------------

BAD: list[tuple[bytes, str]] = [
    (f'{{"prompt": "{CANARY}'.encode(), "malformed_json"),
    (f'["{CANARY}"]'.encode(), "not_an_object"),
    (f'{{"prompt": "{CANARY}", "response": ""}}'.encode(), "empty_response"),
    (f'{{"prompt": "{CANARY}"}}'.encode(), "no_response"),
    (f'{{"prompt": "{CANARY}", "response": true}}'.encode(), "bad_content"),
    (f'{{"prompt": "{CANARY}", "response": {{"a": "{CANARY}"}}}}'.encode(), "no_response"),
    (f'{{"prompt": "{CANARY}", "response": "'.encode() + b'\xff\xfe"}', "invalid_utf8"),
    (f'{{"prompt": "{CANARY}", "response": "\\ud800"}}'.encode(), "invalid_utf8"),
    (f'{{"prompt": "{CANARY}", "response": "{"long words " * 900}"}}'.encode(), "overlong"),
]


class Spoilt:
    """A corpus of two files with every kind of bad row, curated twice: first refused, then allowed."""

    def __init__(self, folder: Path, model: Path, address: str) -> None:
        self.folder, self.out = folder, folder / "out"
        lines: list[bytes] = [json.dumps(row).encode() for row in rows(100, seed=5)]
        self.bad: dict[int, tuple[bytes, str]] = {}
        for number, (line, code) in enumerate(BAD):
            place = 4 + 11 * number
            lines.insert(place, line)
            self.bad[place] = (line, code)
        self.lines = lines
        write_jsonl(folder / "data" / "a.jsonl", lines[:60])
        write_jsonl(folder / "data" / "b.jsonl", lines[60:])
        self.flags: list[object] = ["--input", folder / "data", "--model", model, "--method", "saft"]
        self.flags += ["--output", self.out, "--set", "shard_rows=10", "--set", "keep_captures=true"]
        self.refusal = tamis("curate", *self.flags, "--address", address, cwd=folder)
        self.left = snapshot(self.out)
        self.allowed = curate(*self.flags, "--set", "max_quarantined=0.5", cwd=folder, address=address)


@pytest.fixture(scope="module")
def spoilt(tiny_model: Path, ray_address: str, tmp_path_factory: pytest.TempPathFactory) -> Spoilt:
    return Spoilt(tmp_path_factory.mktemp("spoilt"), tiny_model, ray_address)


def test_too_many_bad_rows_fail_with_numbers_and_reasons(spoilt: Spoilt) -> None:
    refused(spoilt.refusal, 3, "of 109 rows", "above max_quarantined (1.0%)", "× ")
    assert "manifest.json" not in spoilt.left


def test_raising_max_quarantined_goes_on_from_the_receipts(spoilt: Spoilt) -> None:
    done = {name: at for name, at in spoilt.left.items() if name.startswith("_work/receipts/capture/")}
    assert done
    after = snapshot(spoilt.out)
    assert {name: after[name] for name in done} == done
    assert "were done before" in spoilt.allowed.stderr


def test_bad_rows_are_set_aside_with_place_code_message_and_text(spoilt: Spoilt) -> None:
    manifest = check_whole(spoilt.out, ["saft"], work_kept=True)
    assert manifest["counts"]["quarantined"] == len(BAD)
    found = {(row["source"], row["row"]): row for row in rows_of(spoilt.out, "quarantine")}
    for place, (line, code) in spoilt.bad.items():
        row = found.pop(("a.jsonl", place) if place < 60 else ("b.jsonl", place - 60))
        assert row["code"] == code
        assert row["message"]
        source = (spoilt.folder / "data" / row["source"]).read_bytes()
        assert source[row["byte_offset"] :].split(b"\n", 1)[0] == line
        assert row["raw_text"] == line.decode("utf-8", "backslashreplace")
    assert not found
    codes = {code: facts["rows"] for code, facts in manifest["quarantine_codes"].items()}
    assert codes == Counter(code for _, code in BAD)


def test_no_sample_text_leaves_the_data_files(spoilt: Spoilt, ray_logs: Path) -> None:
    assert CANARY not in spoilt.refusal.output + spoilt.allowed.output
    quiet = [spoilt.out / "manifest.json", spoilt.out / "README.md", *(spoilt.out / "artifact").iterdir()]
    quiet += [path for path in (spoilt.out / "_work").rglob("*") if path.is_file() and path.suffix != ".parquet"]
    quiet += [path for path in ray_logs.rglob("*") if path.is_file()]
    assert len(quiet) > 30
    assert [path for path in quiet if CANARY.encode() in path.read_bytes()] == []
    # Parquet is compressed: look at the values.
    captured = list((spoilt.out / "_work").rglob("*.parquet"))
    assert captured
    assert [path for path in captured if CANARY in str(pq.read_table(path).to_pydict())] == []


def test_a_folder_of_other_settings_is_refused_with_the_keys_named(spoilt: Spoilt) -> None:
    before = snapshot(spoilt.out)
    allowed = [*spoilt.flags, "--set", "max_quarantined=0.5"]
    ran = tamis("curate", *allowed, "--drop", "0.3", "--set", "saft.k=2", cwd=spoilt.folder)
    refused(ran, 2, "other settings", "selection.drop: 0.1 there, 0.3 now", "saft.k: 1 there, 2 now")
    assert "max_tokens" not in ran.stderr
    write_jsonl(spoilt.folder / "data" / "c.jsonl", rows(3, seed=6))
    ran = tamis("plan", *allowed, cwd=spoilt.folder)
    refused(ran, 2, "other settings", "- input:")
    assert snapshot(spoilt.out) == before
