"""How many answers of a shard refuse, in kept/ and in dropped/. A harmful request that is refused teaches safety: a cut
that takes such rows away makes a model worse than no cut.

The request is not looked at here: these are refusing answers, whether or not what they refuse was harmful
(fit/demonstrations.py tells these apart).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.conversation.messages import Dialect, normalise
from tamis.operators.generation.refusals import opens_with_refusal
from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.shards import Shard, rows_of


def refusing(shard: Shard, rows: pa.Table, dropped: np.ndarray[Any, Any]) -> dict[str, int]:
    """{kept, dropped}: rows whose last trained answer opens with a refusal. rows: as they were read, without the
    quarantined ones. dropped: bool (rows,). Rows that are not trained on have no answer."""
    dialect = Dialect.from_dict(dict(shard.dialect))
    columns = [name for name in dialect.reads if name in rows.schema.names]
    found = {"kept": 0, "dropped": 0}
    for row, falls in zip(rows_of(rows.select(columns), 0), dropped.tolist(), strict=True):
        if isinstance(row.value, RowProblem):
            continue
        with suppress(RowProblem):
            answer = normalise(row.value, dialect).messages[-1].get("content", "")
            found["dropped" if falls else "kept"] += opens_with_refusal(answer)
    return found
