"""Feed hostile rows of every kind and format to the reader and the tokenizer, and account for each of them.

    python tests/fuzz/million_rows.py --rows 1000000 --seed 1

Rows are written to files as JSON lines, JSON arrays, CSV and Parquet, plain and compressed, and read back as a run
reads them: scan, shards, rows, conversations, tokens, and the table that would be kept. Every row must come out once,
as what was written or as a problem; a row that comes out usable must say the same in the table. Prints, for each kind
of row, how many came out usable and how many with which problem.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))

from hostile import LINES, TEXTS, Row, chat, dumped, hundred_thousand_turns, pair, with_text, words
from json_rows import to_rows
from tiny_models import save_model

from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.conversation.schema import infer_rows, settle, to_table
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.inputs.files import resolve
from tamis.pipeline.inputs.shards import Shard, make_shards, read, scan

FILE_ROWS = 4000
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "json", "json.gz", "csv", "csv.gz", "tsv.zst", "parquet")
WEIGHTS = (6, 3, 3, 3, 1, 3, 1, 1, 3)
DIALECTS = {
    "pair": Dialect.of("pair", prompt="prompt", response="response", system="system"),
    "chat": Dialect.of("messages", messages="messages", system="system"),
}
# as JSON these are one element of an array; the other lines of hostile.py would break the array that holds them
WHOLE = (
    *("same_key_twice", "same_key_twice_within", "nan", "nested", "any_types", "conversation_of_any_type", "missing"),
    *("lone_surrogate", "not_utf8", "many_keys", "odd_keys", "empty_answer", "odd_turn"),
)
Made = tuple[str, bytes]  # the kind of a row, and its text where it has one


def make_lines(chance: random.Random, count: int, base: str, kinds: Sequence[str]) -> list[Made]:
    """Rows as JSON texts: half of them sound JSON with hostile texts, half hostile as JSON."""
    rows: list[Made] = []
    for _ in range(count):
        text = chance.choice([*TEXTS])
        row: Row = (pair if base == "pair" else chat)(chance, TEXTS[text])
        kind = chance.choice(kinds)
        if chance.random() < 0.5:
            rows.append((f"text: {text}", dumped(row, ensure_ascii=chance.random() < 0.5)))
        elif chance.random() < 0.0001:
            rows.append(("line: 10 MB", dumped(with_text(row, "a b" * 3_500_000))))
        elif chance.random() < 0.0004:
            rows.append(("line: 100,000 turns", dumped(hundred_thousand_turns(chance))))
        else:
            rows.append((f"line: {kind}", LINES[kind](chance, row)))
    return rows


def make_cells(chance: random.Random, delimiter: str, count: int) -> list[Made]:
    """Rows of a CSV file with the columns prompt and response."""
    rows: list[Made] = []
    for _ in range(count):
        kind = chance.choice([*TEXTS])
        cells = [TEXTS[kind](chance).replace("\r", " "), TEXTS[kind](chance)]
        kind = f"cells: {kind}"
        if chance.random() < 0.1:
            kind, cells = "cells: too many or few", [words(chance)] * chance.choice((1, 3, 7))
        quoted = delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells).encode("utf-8", "surrogatepass")
        if chance.random() < 0.05:
            kind, quoted = "cells: not UTF-8", quoted[:-1] + b'\xff"'
        rows.append((kind, quoted))
    return rows


def make_table(chance: random.Random, base: str, count: int) -> tuple[list[str], pa.Table]:
    """Rows as Arrow has them, where a string column may hold any bytes."""
    kinds, rows = [], []
    for _ in range(count):
        kind = chance.choice([*TEXTS])
        row = (pair if base == "pair" else chat)(chance, TEXTS[kind])
        kind = f"typed: {kind}"
        if chance.random() < 0.1:
            kind, row = "typed: null", dict.fromkeys(row)
        rows.append(row)
        kinds.append(kind)
    table = pa.Table.from_pylist(rows)
    if base == "pair":
        answers = [row["response"] and row["response"].encode() for row in rows]
        for place in chance.sample(range(count), count // 20):
            kinds[place], answers[place] = "typed: not UTF-8", b"\xff\xfe"
        column = pa.Array.from_buffers(pa.string(), count, pa.array(answers, pa.binary()).buffers())
        table = table.set_column(table.column_names.index("response"), "response", column)
    return kinds, table


def write_file(chance: random.Random, folder: Path, format: str, base: str, count: int) -> tuple[Path, list[str]]:
    """One file of `count` rows; the kinds of them, in order."""
    path = folder / f"rows.{format}"
    plain, _, packing = format.partition(".")
    if plain == "parquet":
        kinds, table = make_table(chance, base, count)
        pq.write_table(table, path, row_group_size=chance.choice((100, 5000)))
        return path, kinds
    if plain in {"csv", "tsv"}:
        delimiter = "\t" if plain == "tsv" else ","
        made = make_cells(chance, delimiter, count)
        data = delimiter.join(("prompt", "response")).encode() + b"\n" + b"\n".join(text for _, text in made) + b"\n"
    elif plain == "json":
        made = make_lines(chance, count, base, WHOLE)
        data = b"[" + chance.choice((b",", b" ,\n ")).join(text for _, text in made) + b"]\n"
    else:
        made = make_lines(chance, count, base, [*LINES])
        data = chance.choice((b"\n", b"\r\n", b"\n \t\n\n")).join(text for _, text in made) + b"\n"
    path.write_bytes(packed(data, packing))
    return path, [kind for kind, _ in made]


def packed(data: bytes, packing: str) -> bytes:
    if packing == "gz":
        return gzip.compress(data, 1)
    if packing == "zst":
        return pa.compress(data, "zstd", asbytes=True)  # type: ignore[no-any-return]
    return data


def says_the_same(again: Any, value: Any) -> bool:
    """Whether what the table gives back is what was read. Of a row, missing keys are null."""
    if isinstance(again, str) and not isinstance(value, str):
        return says_the_same(json.loads(again), value)
    if isinstance(value, dict):
        return list(again) == list(value) and all(says_the_same(again[key], value[key]) for key in value)
    if isinstance(value, list):
        return len(again) == len(value) and all(map(says_the_same, again, value))
    return bool(again == value) or (again != again and value != value)


def outcomes_of(shard: Shard, tokenizer: ChatTokenizer) -> Iterator[str]:
    """What became of each row of the shard: "usable", or the code of its problem."""
    rows = read(shard, {})
    assert [row.number for row in rows] == list(range(shard.span.start_row, shard.span.stop_row))
    dialect = Dialect.from_dict(dict(shard.dialect))
    found: list[str] = [""] * len(rows)
    usable: list[tuple[int, Any]] = []
    conversations = []
    for place, row in enumerate(rows):
        row.raw_text().encode()
        try:
            if isinstance(row.value, RowProblem):
                raise row.value
            conversations.append(normalise(row.value, dialect))
            usable.append((place, row.value))
        except RowProblem as problem:
            found[place] = problem.code
    encoded = tokenizer.encode(conversations, max_tokens=512, overlong="keep_end")
    kept: list[Any] = []
    for (place, value), outcome in zip(usable, encoded, strict=True):
        if isinstance(outcome, RowProblem):
            found[place] = outcome.code
            continue
        found[place] = "usable"
        kept.append(value)
        spans = np.array(outcome.responses)
        assert (spans[:, 0] < spans[:, 1]).all()
        assert (spans[1:, 0] >= spans[:-1, 1]).all()
        assert spans[-1, 1] <= len(outcome.input_ids) <= 512
    if shard.file.format in {"json", "jsonl"} and kept:
        table = to_table(kept, settle(infer_rows(kept)))
        for again, value in zip(to_rows(table), kept, strict=True):
            assert all(says_the_same(found, value.get(key)) for key, found in again.items()), shard.file.name
    yield from found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--seed", type=int, default=1)
    chosen = options.parse_args()
    chance, began = random.Random(chosen.seed), time.monotonic()
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    files = 0
    stopped: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))  # ends with the counts so far
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = ChatTokenizer.load(str(save_model(Path(folder) / "model", blocks=1, width=32)))
        while (written := sum(map(Counter.total, counts.values()))) < chosen.rows and not stopped:
            [format] = chance.choices(FORMATS, WEIGHTS)
            base = "pair" if format.startswith(("csv", "tsv")) else chance.choice(("pair", "chat"))
            path, kinds = write_file(chance, Path(folder), format, base, min(FILE_ROWS, chosen.rows - written))
            scanned = scan(resolve([str(path)], "auto", {})[0], chance.choice((7, 256, 2048)), {})
            shards = make_shards(scanned, "corpus", DIALECTS[base].to_dict(), 0)
            found = [outcome for shard in shards for outcome in outcomes_of(shard, tokenizer)]
            assert len(found) == len(kinds), f"{path.name}: {len(kinds)} rows went in and {len(found)} came out"
            for kind, outcome in zip(kinds, found, strict=True):
                counts[kind][outcome] += 1
            files += 1
            path.unlink()
            if files % 10 == 0:
                print(f"{files * FILE_ROWS:,} rows, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    outcomes = sum(counts.values(), Counter())
    for kind in sorted(counts):
        said = ", ".join(f"{code} {number:,}" for code, number in counts[kind].most_common())
        print(f"{kind:34s} {counts[kind].total():>9,}  {said}")
    usable = outcomes["usable"]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{written:,} rows in {files:,} files = {usable:,} usable + {written - usable:,} problems; none lost")
    print(f"{time.monotonic() - began:.0f} s, at most {memory:.2f} GiB, seed {chosen.seed}")


if __name__ == "__main__":
    main()
