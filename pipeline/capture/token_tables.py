"""The tables of one shard from the token stages, joined: losses under both reference models, risk, tokens.

The first scoring round has the tokens and the losses under both models. A later round has only the losses under the
degraded model of that round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.methods.toss import token_risk
from tamis.pipeline.storage.store import Sealed, Store

UTILITY, HARMFUL = "utility", "harmful"
_FACTS = ("code", "message", "n_tokens", "n_response_tokens", "truncated")
_TOKENS = ("input_ids", "starts", "stops")


def stage_of(round: int) -> str:
    """The folder of a scoring round, and of its receipts."""
    return "losses" if round == 0 else f"losses-{round}"


class LossFiles(NamedTuple):
    """The files of one shard after a scoring round. name: the shard's name. first: the file of round 0. later: the
    file of this round, if it is a later one."""

    name: str
    first: Sealed
    later: Sealed | None = None


@dataclass(frozen=True, eq=False)
class Ragged:
    """Lists of any lengths, one per row: flat values, and int64 offsets (rows + 1,)."""

    values: np.ndarray[Any, Any]
    offsets: np.ndarray[Any, Any]

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        return np.diff(self.offsets)

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Ragged:
        """From a column of lists without nulls."""
        lengths = pc.list_value_length(column).to_numpy()
        flat = pc.list_flatten(column).to_numpy()
        return cls(flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))


@dataclass(frozen=True, eq=False)
class TokenShard:
    """One shard. facts: one row per input row; its code is null where the row was scored. valid: bool, one per input
    row: was it scored? For the valid rows: risk float32 and, if requested, input_ids, starts and stops int32."""

    facts: pa.Table
    valid: np.ndarray[Any, Any]
    risk: Ragged
    input_ids: Ragged | None
    starts: Ragged | None
    stops: Ragged | None


def read_tokens(store: Store, scored: LossFiles, *, tokens: bool = False) -> TokenShard:
    """The shard after a scoring round: a row that failed in this round or in the first is not valid."""
    columns = [*_FACTS, UTILITY, *([HARMFUL] if scored.later is None else []), *(_TOKENS if tokens else [])]
    table = store.read_table(scored.first, columns)
    if scored.later is not None:
        later = store.read_table(scored.later, ["code", "message", HARMFUL])
        for column in ("code", "message"):
            merged = pc.coalesce(table.column(column), later.column(column))
            table = table.set_column(table.schema.get_field_index(column), column, merged)
        table = table.append_column(HARMFUL, later.column(HARMFUL))
    good = pc.is_null(table.column("code"))
    usable = table.filter(good)
    utility, harmful = Ragged.of(usable.column(UTILITY)), Ragged.of(usable.column(HARMFUL))
    if not np.array_equal(utility.offsets, harmful.offsets):
        raise AssertionError(f"shard {scored.name}: the rounds have scored different tokens")
    risk = Ragged(token_risk(utility.values, harmful.values), utility.offsets)
    found = [Ragged.of(usable.column(column)) if tokens else None for column in _TOKENS]
    return TokenShard(table.select(list(_FACTS)), good.to_numpy(), risk, *found)
