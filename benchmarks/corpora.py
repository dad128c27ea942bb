"""The rows that the benchmarks run on: token ids with a natural distribution of lengths.

Alpaca's first 3,000 rows, rendered and tokenised, if they and a tokenizer are at hand; else rows of the same length
quantiles. A random model takes random ids of these lengths: what a token is makes no difference to its cost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import checkout
import numpy as np
import numpy.typing as npt

from tamis.operators.conversation.detection import detect
from tamis.operators.conversation.messages import Conversation, normalise
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.tokenizer import ChatTokenizer

SHARED = (checkout.ROOT / "shared", checkout.ROOT.parent / "shared")
MAX_TOKENS = 2048

# Tokens of Alpaca's first 3,000 rows at these quantiles, and the mean share that are the answer's.
QUANTILES = (0.0, 0.01, 0.05, 0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80, 0.90, 0.95, 0.99, 1.0)
TOKENS = (12, 19, 24, 28, 34, 40, 49, 64, 82, 101, 123, 159, 195, 312, 504)
ANSWER_SHARE = 0.59


@dataclass(frozen=True)
class Corpus:
    """input_ids: N arrays (T_i,). finals: int64 (N, 2), the token range of each final answer. source: for people.
    has_ids: whether the ids are a tokenizer's, or only their number means something.
    """

    input_ids: list[npt.NDArray[np.int64]]
    finals: npt.NDArray[np.int64]
    source: str
    has_ids: bool = True

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def quantiles(self) -> dict[str, float]:
        lengths = self.lengths
        return {
            "rows": len(lengths),
            "tokens": int(lengths.sum()),
            "median": float(np.median(lengths)),
            "mean": round(float(lengths.mean()), 1),
            "p95": float(np.percentile(lengths, 95)),
            "longest": int(lengths.max()),
        }


def shared_file(name: str) -> Path | None:
    """A file or folder of the shared folder in or beside this checkout, if there is one."""
    return next((folder / name for folder in SHARED if (folder / name).exists()), None)


def find_corpus(rows: int, *, file: Path | None, tokenizer: Path | None) -> Corpus:
    """`rows` rows (0: all that there are) of `file`, or of Alpaca, or made up; in the order of the file.

    file: JSONL in any form that tamis reads. tokenizer: a model folder; without one there is nothing to count
    tokens with, and lengths are drawn. A file with fewer rows than asked for is begun again.
    """
    file = file or shared_file("data/alpaca_3k.jsonl")
    tokenizer = tokenizer or shared_file("models/aligned-8m")
    if file is None or tokenizer is None:
        return drawn(rows or 3000)
    found = tokenised(read_conversations(file), tokenizer)
    source = f"{file.name}, tokens of {tokenizer.name}"
    count = rows or len(found.input_ids)
    order = np.arange(count) % len(found.input_ids)
    return Corpus([found.input_ids[row] for row in order], found.finals[order], source)


def read_conversations(file: Path) -> list[Conversation]:
    """The rows of a JSONL file that hold a conversation, in order."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(text) for text in lines]
    dialect = detect(sorted({name for row in rows for name in row}), rows[:1000])
    conversations = []
    for row in rows:
        try:
            conversations.append(normalise(row, dialect))
        except RowProblem:  # e.g. an empty answer: the job would quarantine it
            continue
    return conversations


def tokenised(conversations: Sequence[Conversation], tokenizer: Path) -> Corpus:
    encoded = ChatTokenizer.load(str(tokenizer)).encode(conversations, max_tokens=MAX_TOKENS, overlong="keep_end")
    good = [entry for entry in encoded if not isinstance(entry, RowProblem)]
    finals = np.array([entry.final for entry in good], dtype=np.int64)
    return Corpus([entry.input_ids.astype(np.int64) for entry in good], finals, tokenizer.name)


def drawn(rows: int, seed: int = 0) -> Corpus:
    """Rows of random lengths with Alpaca's quantiles; all ids are 0 until `with_random_ids`."""
    spread = (np.arange(rows) + 0.5) / rows
    lengths = np.interp(spread, QUANTILES, TOKENS).round().astype(np.int64)
    np.random.default_rng(seed).shuffle(lengths)
    starts = np.clip((lengths * (1 - ANSWER_SHARE)).round().astype(np.int64), 1, lengths - 1)
    finals = np.stack([starts, lengths], axis=1)
    ids = [np.zeros(length, dtype=np.int64) for length in lengths]
    return Corpus(ids, finals, "lengths with Alpaca's quantiles", has_ids=False)


def with_random_ids(corpus: Corpus, vocabulary: int, seed: int = 0) -> Corpus:
    random = np.random.default_rng(seed)
    ids = [random.integers(0, vocabulary, len(row), dtype=np.int64) for row in corpus.input_ids]
    return Corpus(ids, corpus.finals, f"{corpus.source}; random ids")
