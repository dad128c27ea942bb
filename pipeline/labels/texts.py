"""The conversations of some rows of a finished run, as people read them, and a digest of each.

A sample id is made of a file's name and a row's number, so it stays the same where the row holds another text by now.
But a label is of a text. So a sheet has the digest of the text that was labelled, and `check_texts` compares it with
the run's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.problems import RowProblem
from tamis.pipeline.errors import InputError
from tamis.pipeline.inputs.shards import rows_of
from tamis.pipeline.labels.read import Labels
from tamis.pipeline.run.paths import DROPPED, KEPT, SCORES
from tamis.pipeline.run.row_places import RowPlaces, shard_of
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress

_DIGEST_BYTES = 16


@dataclass(frozen=True)
class Text:
    """One row. place: its number in the corpus. row: its number in the file `source`. text: the whole conversation."""

    place: int
    sample_id: str
    source: str
    row: int
    text: str


def digest_of(text: str) -> str:
    """32 hex digits, of the whole text: a cell of a spreadsheet may be cut short."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def check_texts(store: Store, manifest: Mapping[str, Any], labels: Labels) -> None:
    """InputError if a row of the run holds another text than the one that its label is of, as far as the labels say
    which that was. Rows in quarantine are passed over. DamagedError for a file of the run that is not as it was."""
    if not labels.digests:
        return
    rows = texts_at(store, manifest, sorted(labels.digests), "labels")
    if bad := sum(labels.digests[row.place] != frozenset((digest_of(row.text),)) for row in rows):
        raise InputError(
            f"--labels: {bad:,} rows hold another text than the one labelled; the corpus has changed, or other columns "
            "of it are read; draw and label anew"
        )


def texts_at(store: Store, manifest: Mapping[str, Any], places: Sequence[int], stage: str) -> Iterator[Text]:
    """The rows of these numbers, in corpus order, from kept/ and dropped/; not those in quarantine. stage: at whose
    progress one looks meanwhile."""
    wanted = np.array(sorted(places), dtype=np.int64)
    dialects = {file["path"]: Dialect.from_dict(file["columns"]) for file in manifest["input"]["files"]}
    sealed = {entry["name"]: Sealed(entry["name"], entry["sha256"]) for entry in manifest["files"]}
    names = sorted(name for name in sealed if name.startswith(f"{SCORES}/"))
    corpus = RowPlaces(store, manifest["files"])
    progress = Progress(stage, len(names), unit="files", brief=True)
    before = 0
    for name in names:
        table = store.read_table(sealed[name], ["sample_id", "source", "row", "decision"])
        low, high = np.searchsorted(wanted, [before, before + table.num_rows])
        texts = _texts(corpus, shard_of(name), table, wanted[low:high] - before, dialects)
        for here in sorted(texts):
            sample_id, source, row = (table.column(name)[here].as_py() for name in ("sample_id", "source", "row"))
            yield Text(before + here, sample_id, source, row, texts[here])
        before += table.num_rows
        progress.advance(1)
    progress.finish()


def _texts(
    corpus: RowPlaces,
    shard: str,
    scores: pa.Table,
    wanted: npt.NDArray[np.int64],
    dialects: Mapping[str, Dialect],
) -> dict[int, str]:
    """The text of the wanted rows of one shard, by their place in it. kept/ and dropped/ have no number of a row: they
    hold the rows of their decision in the order of scores/."""
    texts: dict[int, str] = {}
    decisions = np.array(scores.column("decision").to_pylist(), dtype=object)
    for part, decision in ((KEPT, "kept"), (DROPPED, "dropped")):
        there = np.flatnonzero(decisions == decision)
        here = [place for place in wanted.tolist() if decisions[place] == decision]
        if not here:
            continue
        dialect = dialects[scores.column("source")[0].as_py()]
        table = corpus.read(part, shard, dialect.reads)
        where = corpus.where(part, shard)
        if table is None:
            raise InputError(f"{where}: is not in the manifest; see `tamis verify`")
        if table.num_rows != len(there):
            raise InputError(f"{where} has {table.num_rows:,} rows, {SCORES}/ {len(there):,}; see `tamis verify`")
        rows = table.take(pa.array(np.searchsorted(there, here)))
        for place, row in zip(here, rows_of(rows, 0), strict=True):
            texts[place] = _text(row.value, dialect)
    return texts


def _text(value: Mapping[str, Any] | RowProblem, dialect: Dialect) -> str:
    try:
        if isinstance(value, RowProblem):
            raise value
        return text_of(normalise(value, dialect))
    except RowProblem as problem:
        return f"(tamis cannot show this row: {problem.code}; look it up in its source)"


def text_of(conversation: Conversation) -> str:
    """A conversation as plain text, each turn under its role."""
    return "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in conversation.for_people())
