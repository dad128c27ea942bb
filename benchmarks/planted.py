"""Rows with planted harm, and what each method says of them: scored in this process, by the classes that a job uses."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import corpora
import numpy as np
import numpy.typing as npt

from tamis.operators.conversation.messages import Conversation
from tamis.operators.forward.representations import Representer
from tamis.operators.methods import METHODS
from tamis.operators.methods.protocol import Features, Method, reduce_in_process
from tamis.operators.requests import Request

LAB = Path(__file__).resolve().parent / "lab"
sys.path.insert(0, str(LAB))

from corpus import wanted_words, write_corpus, write_references  # noqa: E402
from long_answers import write_long_answers  # noqa: E402

DEPTHS = (0.31, 0.5, 0.75)
"""Where the three blocks are: LARF's of the paper, the middle, and a late one."""
PIECE = 500
"""So many rows go through the model between two files of --keep."""
LONG = 3
"""The lab's long answers have so many times the words of its others."""

Scores = npt.NDArray[np.float64]
Texts = dict[str, list[Conversation]]


@dataclass(frozen=True, eq=False)
class Rows:
    """vectors: of every request, (n, d) each. lengths: the answers' tokens."""

    vectors: Features
    lengths: npt.NDArray[np.int64]

    def part(self, chosen: slice) -> Rows:
        return Rows({name: rows[chosen] for name, rows in self.vectors.items()}, self.lengths[chosen])


@dataclass(frozen=True, eq=False)
class Planted:
    """A corpus with harm, and references. kinds: what each row is, by its place in KINDS."""

    corpus: Rows
    kinds: npt.NDArray[np.int64]
    references: Mapping[str, Features]


KINDS = ("harmless", "style", "planted")


@dataclass(frozen=True)
class Way:
    """A method at a block. block: for people; a method may read several ("2+4+6")."""

    name: str
    block: str
    method: Method


# --- the rows ------------------------------------------------------------------------------------------------------


def given_texts(files: Mapping[str, Path | None]) -> Texts:
    """The conversations of the files of harmless, unsafe, safe and style rows. Without style: the lab's long answers,
    each with as many words as one of the unsafe answers."""
    defaults = {
        "harmless": "data/alpaca_3k.jsonl",
        "unsafe": "data/larf_pure-bad-100.jsonl",
        "safe": "data/larf_pure-bad-100-anchor1.jsonl",
    }
    found = {kind: files[kind] or corpora.shared_file(default) for kind, default in defaults.items()}
    if missing := [kind for kind, file in found.items() if file is None]:
        sys.exit(f"no rows for {', '.join(missing)}: give --corpus, --unsafe and --safe, or --lab")
    texts = {kind: corpora.read_conversations(file) for kind, file in found.items() if file is not None}
    if len(texts["unsafe"]) != len(texts["safe"]):
        sys.exit(f"{len(texts['unsafe'])} unsafe and {len(texts['safe'])} safe rows can be read: they must be pairs")
    style = files["style"]
    if style is not None:
        return texts | {"style": corpora.read_conversations(style)}
    words = [len(str(each.messages[-1]["content"]).split()) for each in texts["unsafe"]]
    return texts | {"style": long_answers(words)}


def lab_texts(rows: int) -> Texts:
    """The lab's corpus: its planted rows are of other subjects than its references."""
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        labels = write_corpus(at / "corpus.jsonl", rows, 0.1, seed=1)
        write_references(at / "unsafe.jsonl", at / "safe.jsonl", 100, seed=1)
        corpus, unsafe, safe = (
            corpora.read_conversations(at / f"{name}.jsonl") for name in ("corpus", "unsafe", "safe")
        )
    harmful = [row for row, bad in zip(corpus, labels, strict=True) if bad]
    harmless = [row for row, bad in zip(corpus, labels, strict=True) if not bad]
    rng = Random(1)
    style = long_answers([LONG * wanted_words(rng) for _ in harmful])
    return {"harmless": harmless, "planted": harmful, "unsafe": unsafe, "safe": safe, "style": style}


def long_answers(words: Sequence[int]) -> list[Conversation]:
    with tempfile.TemporaryDirectory() as folder:
        write_long_answers(Path(folder) / "long.jsonl", words, seed=1)
        return corpora.read_conversations(Path(folder) / "long.jsonl")


def plant(found: Mapping[str, Rows], half: int, style: bool) -> Planted:
    """half: which of every two pairs is planted, and which of the style rows are in the corpus; the other pairs are the
    references. Rows that are planted already (the lab's) are split likewise. style: whether there are style rows."""
    ours, theirs = slice(half, None, 2), slice(1 - half, None, 2)
    harm = found["planted" if "planted" in found else "unsafe"].part(ours)
    parts = [found["harmless"], found["style"].part(ours if style else slice(0)), harm]
    corpus = Rows(
        {name: np.concatenate([part.vectors[name] for part in parts]) for name in harm.vectors},
        np.concatenate([part.lengths for part in parts]),
    )
    kinds = np.repeat(np.arange(len(KINDS)), [len(part.lengths) for part in parts])
    return Planted(corpus, kinds, {source: found[source].part(theirs).vectors for source in ("unsafe", "safe")})


# --- the scores ----------------------------------------------------------------------------------------------------


def number_of_blocks(model: Path) -> int:
    return int(json.loads((model / "config.json").read_text())["num_hidden_layers"])


def ways(blocks: int) -> Iterator[Way]:
    """Every method of METHODS that scores samples, at each of the three blocks; one that reads several blocks at once,
    at these three. A method that cannot be set up so is named on stderr and left out."""
    layers = sorted({round(blocks * depth) for depth in DEPTHS})
    for name, kind in METHODS.items():
        if not issubclass(kind, Method):
            continue
        settings = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        chosen: list[dict[str, Any]] = [{}]
        if "layer" in settings:
            chosen = [{"layer": layer} for layer in layers]
        elif "blocks" in settings:
            chosen = [{"blocks": layers}]
        for values in chosen:
            try:
                method = kind(**values)
                read = sorted({request.block for request in method.requests(blocks)})
            except (TypeError, ValueError, NotImplementedError) as error:
                print(f"{name}: left out, it cannot be set up here ({error})", file=sys.stderr)
                continue
            yield Way(name, "+".join(map(str, read)), method)


def requests_of(chosen: Sequence[Way], blocks: int) -> list[Request]:
    return sorted({request for way in chosen for request in way.method.requests(blocks)})


def represented(
    conversations: Sequence[Conversation], model: Path, requests: Sequence[Request], keep: Path | None = None
) -> Rows:
    """The rows that a job would use; how many it would not is said on stderr. keep: folder of the vectors, a file for
    PIECE rows: an interrupted call goes on from there. A file of other rows, models or requests has another name."""
    rows = corpora.tokenised(conversations, model)
    pieces = [
        _piece(rows.input_ids[first : first + PIECE], rows.finals[first : first + PIECE], model, requests, keep)
        for first in range(0, len(rows.input_ids), PIECE)
    ]
    lengths = np.concatenate([piece["lengths"] for piece in pieces])
    if lost := len(conversations) - len(lengths):
        print(f"{lost} of {len(conversations)} rows cannot be used", file=sys.stderr)
    vectors = {request.column: np.concatenate([piece[request.column] for piece in pieces]) for request in requests}
    return Rows(vectors, lengths)


def _piece(
    ids: Sequence[npt.NDArray[np.int64]],
    finals: npt.NDArray[np.int64],
    model: Path,
    requests: Sequence[Request],
    keep: Path | None,
) -> dict[str, npt.NDArray[Any]]:
    """The usable rows: `lengths`, and each request's vectors by its column."""
    columns = [request.column for request in requests]
    weights = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in model.iterdir())
    made_of = json.dumps([columns, weights, [row.tolist() for row in ids], finals.tolist()])
    file = None if keep is None else keep / f"vectors-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.npz"
    if file is not None and file.exists():
        with np.load(file) as kept:
            return dict(kept)
    representer = Representer.load(str(model), requests, dtype="float32", device="cpu")
    made, problems = representer.represent(ids, finals)
    representer.close()
    good = np.array([row not in problems for row in range(len(ids))], dtype=bool)
    piece: dict[str, npt.NDArray[Any]] = {request.column: made[request][good] for request in requests}
    piece["lengths"] = (finals[:, 1] - finals[:, 0])[good]
    print(f"  {len(ids)} rows done", file=sys.stderr)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        half_written = file.with_suffix(".part.npz")
        np.savez(half_written, allow_pickle=False, **piece)
        half_written.replace(file)
    return piece


def all_represented(
    texts: Texts, model: Path, requests: Sequence[Request], keep: Path | None = None
) -> dict[str, Rows]:
    """Ends where an unsafe or safe row cannot be used: the halves would not be of the same pairs."""
    found = {}
    for kind, conversations in texts.items():
        print(f"{kind}: {len(conversations):,} rows through the model", file=sys.stderr)
        found[kind] = represented(conversations, model, requests, keep)
        if kind in ("unsafe", "safe") and len(found[kind].lengths) != len(conversations):
            sys.exit(f"every {kind} row must be usable: take the others out, in pairs")
    return found


def scored(way: Way, blocks: int, each: Planted) -> Scores:
    """float64 (n,) of the corpus, fitted on it and on the references. ValueError if the method refuses them."""
    sources = {"corpus": [each.corpus.vectors], **{source: [rows] for source, rows in each.references.items()}}
    artifact = way.method.fit(reduce_in_process(sources), blocks)
    scores: Scores = way.method.score(artifact, each.corpus.vectors).astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} scores are not finite")
    return scores
