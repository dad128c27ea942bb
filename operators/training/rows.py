"""Rows of token ids to fine-tune on: checked before the first step, and distributed to workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tamis.operators.forward.losses import Ranges, response_positions
from tamis.operators.forward.rows import RowNumbers, TokenIds, row_lengths, unusable_rows
from tamis.operators.model.info import ModelInfo
from tamis.operators.problems import RowProblem

_NAMED = 10


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """input_ids: N arrays (T_i,). positions: for each row, the indices, above 0, of the response tokens to learn."""

    input_ids: Sequence[TokenIds]
    positions: Sequence[RowNumbers]

    @classmethod
    def checked(cls, input_ids: Sequence[TokenIds], responses: Ranges, info: ModelInfo) -> TrainingRows:
        """responses: for each row, its half-open token ranges, in order and not overlapping.

        A response token at the very start of a row is not learned, because no token before it can predict it.
        Raises ValueError, naming row numbers and never texts, if there are no rows or if some cannot be used: no
        tokens, no response tokens, more tokens than the model takes, a token id outside its vocabulary.
        """
        if not len(input_ids):
            raise ValueError("there are no rows to train on")
        lengths = row_lengths(input_ids)
        positions = [places[places > 0] for places in response_positions(responses, lengths)]
        problems = unusable_rows(input_ids, lengths, info)
        for row, places in enumerate(positions):
            if not len(places):
                problems.setdefault(row, RowProblem("no_response_token", "the sample has no response tokens to learn"))
        if problems:
            raise ValueError(_named(problems))
        return cls(input_ids, positions)

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def lengths(self) -> RowNumbers:
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)

    @cached_property
    def targets(self) -> RowNumbers:
        """int64 (N,): the number of response tokens to learn in each row."""
        return np.array([len(places) for places in self.positions], dtype=np.int64)

    @cached_property
    def needed(self) -> RowNumbers:
        """int64 (N,): the number of tokens of each row that its losses depend on: all before the last one to learn."""
        return np.array([places[-1] for places in self.positions], dtype=np.int64)


def share(rows: RowNumbers, lengths: RowNumbers, rank: int, workers: int) -> RowNumbers:
    """The rows of `rows` that worker `rank` takes: longest first, each to the worker with the fewest tokens so far.

    lengths: (N,) tokens of every row. Every worker computes the same distribution, so the shares together are `rows`.
    """
    loads = [0] * workers
    mine = []
    for row in rows[np.argsort(-lengths[rows], kind="stable")]:
        lightest = loads.index(min(loads))
        loads[lightest] += int(lengths[row])
        if lightest == rank:
            mine.append(row)
    return np.array(mine, dtype=np.int64)


def _named(problems: dict[int, RowProblem]) -> str:
    """One line that says what is wrong with which rows."""
    kinds: dict[str, list[int]] = {}
    for row, problem in sorted(problems.items()):
        kinds.setdefault(problem.message, []).append(row)
    parts = []
    for message, rows in kinds.items():
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        parts.append(f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_NAMED]))}{more}: {message}")
    return "; ".join(parts)
