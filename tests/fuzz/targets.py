"""What is fuzzed, as functions of a few bytes: each raises if a promise is broken. hypothesis and atheris call them."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from tiny_models import save_model

from tamis.operators.conversation.messages import Conversation, Dialect, detect, normalise
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.emit.redraw import rewrite_report
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.text_files import TextFile, csv_header, examine, find_spans, read_records
from tamis.pipeline.run.folder import layers_state_of, state_of
from tamis.pipeline.run.paths import LAYERS, MANIFEST, RUN
from tamis.pipeline.run.receipts import done
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Store

FORMATS = ("jsonl", "json", "csv", "tsv")


@cache
def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def reader(data: bytes) -> None:
    """Any bytes as a file: cut into any spans, the same rows come out, in order; only ValueError says it is broken."""
    if len(data) < 4:
        return
    format, rows, size, chunk = FORMATS[data[0] % 4], data[1] % 7 + 1, data[2] + 1, data[3] % 60 + 1
    path = folder() / f"rows.{format}"
    path.write_bytes(data[4:])
    file = TextFile(str(path), format, None, {})
    try:
        file = replace(file, layout=examine(file, len(data) - 4))
        if format in {"csv", "tsv"}:
            file = replace(file, header=csv_header(file))
        spans = find_spans(file, rows, size, chunk)
    except ValueError:
        return
    whole = [record for span in find_spans(file, 10**9, 1 << 30) for record in read_records(file, span)]
    pieces = []
    for span in spans:
        found = read_records(file, span)
        assert len(found) == span.stop_row - span.start_row <= rows
        pieces += found
    assert [(r.offset, r.raw, repr(r.value)) for r in pieces] == [(r.offset, r.raw, repr(r.value)) for r in whole]
    assert all(data[4 + r.offset :].startswith(r.raw) for r in whole)
    if file.kind == "jsonl":
        lines = data[4:].split(b"\n")
        assert [r.raw for r in whole] == [line for line in lines if line.strip(b" \t\r\n\v\f")]


def dialect(data: bytes) -> None:
    """Any JSON rows: a dialect is found or ValueError says why not; with it each row is a conversation or a problem."""
    try:
        rows = json.loads(data)
    except (ValueError, RecursionError):
        return
    rows = [row for row in (rows if isinstance(rows, list) else [rows]) if isinstance(row, dict)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for complete in (True, False):
        try:
            found = detect(columns, rows, complete)
        except ValueError:
            continue
        assert Dialect.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        for row in rows:
            try:
                conversation = normalise(row, found)
            except RowProblem:
                continue
            messages = conversation.messages
            assert messages[-1]["role"] == "assistant"
            assert len(messages) - 1 in conversation.answers
            assert all(text.encode().decode() == text for text in conversation.texts())
            assert json.loads(json.dumps(conversation.to_dict())) is not None


@cache
def tokenizer() -> ChatTokenizer:
    return ChatTokenizer.load(str(save_model(folder() / "model", blocks=1, width=32)))


def spans(data: bytes) -> None:
    """Any texts as turns: the ranges of the answers lie in the tokens, in order and apart, and spell the answers."""
    texts = data.decode("utf-8", "ignore").split("|")
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    if len(messages) % 2 or any(m["role"] == "assistant" and not m["content"].strip() for m in messages):
        return
    [whole] = tokenizer().encode([Conversation(messages)], max_tokens=100_000, overlong="quarantine")
    if isinstance(whole, RowProblem):
        assert whole.code in {"special_token_in_text", "unsupported_content", "unstable_template"}, whole
        return
    pieces = tokenizer().pieces(whole.input_ids.tolist())
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    assert len(whole.responses) == len(answers)
    last = 0
    for (start, stop), answer in zip(whole.responses, answers, strict=True):
        assert last <= start < stop <= len(whole.input_ids)
        assert "".join(pieces[start:stop]) == answer
        last = stop
    for overlong in ("keep_start", "keep_end"):
        [cut] = tokenizer().encode([Conversation(messages)], max_tokens=7, overlong=overlong)  # type: ignore[arg-type]
        if not isinstance(cut, RowProblem):
            assert len(cut.input_ids) <= 7
            assert all(0 <= start < stop <= len(cut.input_ids) for start, stop in cut.responses)


class Cell:
    name = "000000-x"


def manifest(data: bytes) -> None:
    """Any bytes as manifest, run, layer search and receipt: ConfigError, or they are taken; names stay inside."""
    store = Store(str(folder() / "out"))
    for name in (MANIFEST, RUN, LAYERS, f"_work/receipts/capture/{Cell.name}.json"):
        store.write(name, data)
    attempts: list[Callable[[], Any]] = [
        lambda: state_of(store, {"a": 1}),
        lambda: layers_state_of(store, {"a": 1}, {}),
        lambda: list(done(store, "capture", [Cell()], "key")),
        lambda: rewrite_report(store),
    ]
    for attempt in attempts:
        with suppress(ConfigError):
            attempt()
    name = data.decode("utf-8", "surrogateescape")
    with suppress(ConfigError):
        assert (folder() / "out" / safe_name(name, MANIFEST)).resolve().is_relative_to((folder() / "out").resolve())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "reader": reader,
    "dialect": dialect,
    "spans": spans,
    "manifest": manifest,
}
