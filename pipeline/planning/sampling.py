"""What the first rows of the first files say of a corpus: how long its rows are, which cannot be used and why, and how
some are rendered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from tamis.operators.conversation.dialects import Dialect
from tamis.operators.conversation.messages import normalise
from tamis.operators.conversation.remarks import Remarks, remarks
from tamis.operators.problems import UNSCORED, RowProblem
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.inputs.shards import Scanned

SAMPLED_FILES = 8
_RAW = 300


@dataclass(frozen=True)
class Trouble:
    """Sampled rows with the same problem. code: of the problem. rows: how many. file, row, message: of the first.
    text: the beginning of that row, where it was asked for."""

    code: str
    rows: int
    file: str
    row: int
    message: str
    text: str = ""


@dataclass(frozen=True)
class Estimate:
    """Estimates from a sample of rows at the head of the first files. Shares are of the sampled rows. bad: rows that
    cannot be used, those not counted that are only too long. troubles: why, the most frequent first. computed_per_row:
    tokens that a model will read, over all sampled rows: those of bad rows are none, and long rows are cut or set
    aside."""

    sampled: int
    tokens_per_row: float
    overlong: float
    bad: float
    troubles: tuple[Trouble, ...] = ()
    computed_per_row: float = 0.0


@dataclass(frozen=True)
class Sample:
    """A row as it is rendered. roles: of its messages. tokens: how many. pieces: its text in order, each with what
    it is: text, a control token, or scored (an answer that is scored)."""

    file: str
    row: int
    roles: tuple[str, ...]
    tokens: int
    pieces: tuple[tuple[str, Literal["text", "control", "scored"]], ...]


@dataclass(frozen=True)
class _Row:
    file: str
    number: int
    value: Mapping[str, Any] | RowProblem
    dialect: Dialect


def sampled(
    files: Sequence[tuple[Scanned, Dialect]],
    tokenizer: ChatTokenizer,
    max_tokens: int,
    *,
    overlong_is_bad: bool,
    every_answer: bool,
    show: int = 0,
    with_texts: bool = False,
) -> tuple[Estimate, tuple[Sample, ...]]:
    """What the heads of the first files say, and the first rows of each of them as they are rendered.

    overlong_is_bad: whether rows longer than max_tokens are quarantined. every_answer: whether all answers of a row are
    scored, not only its last. show: how many rendered rows. with_texts: whether troubles show the text of a row.
    """
    rows = [
        _Row(scanned.file.name, number, value, dialect)
        for scanned, dialect in files[:SAMPLED_FILES]
        for number, value in scanned.first_rows()
    ]
    usable, conversations, problems = [], [], []
    for row in rows:
        try:
            if isinstance(row.value, RowProblem):
                raise row.value
            conversations.append(normalise(row.value, row.dialect))
            usable.append(row)
        except RowProblem as problem:
            problems.append((row, problem))
    lengths: list[int] = []
    overlong: list[tuple[_Row, RowProblem]] = []
    samples: list[Sample] = []
    encoded = tokenizer.encode(conversations, max_tokens=2**30, overlong="quarantine")
    for row, conversation, outcome in zip(usable, conversations, encoded, strict=True):
        if isinstance(outcome, RowProblem):
            problems.append((row, outcome))
            continue
        lengths.append(len(outcome.input_ids))
        if lengths[-1] > max_tokens:
            said = f"{lengths[-1]} tokens, over max_tokens={max_tokens}; set overlong to keep_end or keep_start"
            overlong.append((row, RowProblem("overlong", said)))
        if len(samples) < show:
            roles = tuple(message["role"] for message in conversation.messages)
            pieces = tuple(_pieces(outcome, tokenizer, every_answer))
            samples.append(Sample(row.file, row.number, roles, lengths[-1], pieces))
    among = max(len(rows), 1)
    mean = sum(lengths) / max(len(lengths), 1)
    troubles = _troubles([*problems, *(overlong if overlong_is_bad else [])], with_texts)
    bad = sum(problem.code not in UNSCORED for _, problem in problems)
    computed = sum(length if length <= max_tokens else 0 if overlong_is_bad else max_tokens for length in lengths)
    found = Estimate(len(rows), mean, len(overlong) / among, bad / among, troubles, computed / among)
    return found, tuple(samples)


def _troubles(problems: Iterable[tuple[_Row, RowProblem]], with_texts: bool) -> tuple[Trouble, ...]:
    found: dict[str, Trouble] = {}
    for row, problem in problems:
        if problem.code in found:
            found[problem.code] = replace(found[problem.code], rows=found[problem.code].rows + 1)
            continue
        text = ""
        if with_texts and not isinstance(row.value, RowProblem):
            text = json.dumps(row.value, ensure_ascii=False, default=str)
        text = text if len(text) <= _RAW else f"{text[:_RAW]}..."
        found[problem.code] = Trouble(problem.code, 1, row.file, row.number, problem.message, text)
    return tuple(sorted(found.values(), key=lambda trouble: -trouble.rows))


def _pieces(
    found: Tokenised, tokenizer: ChatTokenizer, every_answer: bool
) -> Iterator[tuple[str, Literal["text", "control", "scored"]]]:
    """The text of a row, cut where its kind changes; a control token is a piece of its own."""
    ranges = found.responses if every_answer else found.responses[-1:]
    scored = {place for start, stop in ranges for place in range(start, stop)}
    ids = found.input_ids.tolist()
    text, kind = "", "text"
    for place, (token, piece) in enumerate(zip(ids, tokenizer.pieces(ids), strict=True)):
        this = "scored" if place in scored else "control" if token in tokenizer.control_ids else "text"
        if this != kind or this == "control":
            if text:
                yield text, kind  # type: ignore[misc]
            text, kind = "", this
        text += piece
    if text:
        yield text, kind  # type: ignore[misc]


def remarks_of(files: Sequence[tuple[Scanned, Dialect]]) -> Remarks:
    """The remarks on the columns of all files: once for each kind of file, of which the first one is looked at."""
    kinds: dict[tuple[Dialect, tuple[str, ...]], Scanned] = {}
    for scanned, dialect in files:
        kinds.setdefault((dialect, scanned.columns), scanned)
    warnings: list[str] = []
    notes: list[str] = []
    for (dialect, columns), scanned in kinds.items():
        found = remarks(dialect, columns, scanned.head)
        where = f"{scanned.file.name}: " if len(kinds) > 1 else ""
        warnings += [where + line for line in found.warnings]
        notes += [where + line for line in found.notes]
    return Remarks(tuple(warnings), tuple(notes))
