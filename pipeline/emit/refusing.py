"""How many answers of a shard refuse, in kept/ and in dropped/. A harmful request that is refused teaches safety: a cut
that takes such rows away makes a model worse than no cut.

The request is not looked at here: these are refusing answers, whether or not what they refuse was harmful
(fit/demonstrations.py tells these apart).

To read a row as a conversation takes longer than all else that is done with it. So where a layout holds answers word
for word, the texts are looked at first, and only rows are read of which one refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.conversation.dialects import Dialect
from tamis.operators.conversation.messages import normalise
from tamis.operators.conversation.values import KEYS
from tamis.operators.generation.refusals import opens_with_refusal
from tamis.operators.problems import RowProblem
from tamis.pipeline.inputs.shards import Shard, rows_of


def refusing(shard: Shard, rows: pa.Table, dropped: np.ndarray[Any, Any]) -> dict[str, int]:
    """{kept, dropped}: rows whose last trained answer opens with a refusal. rows: as they were read, without the
    quarantined ones. dropped: bool (rows,). Rows that are not trained on have no answer."""
    dialect = Dialect.from_dict(dict(shard.dialect))
    columns = [name for name in dialect.reads if name in rows.schema.names]
    found = {"kept": 0, "dropped": 0}
    rows = rows.select(columns)
    if (some := _may_refuse(rows, dialect)) is not None:
        rows, dropped = rows.filter(pa.array(some)), dropped[some]
    for row, falls in zip(rows_of(rows, 0), dropped.tolist(), strict=True):
        if isinstance(row.value, RowProblem):
            continue
        with suppress(RowProblem):
            answer = normalise(row.value, dialect).messages[-1].get("content", "")
            found["dropped" if falls else "kept"] += opens_with_refusal(answer)
    return found


def _may_refuse(rows: pa.Table, dialect: Dialect) -> np.ndarray[Any, Any] | None:
    """bool (rows,): false for rows whose answer is known not to refuse. None where the answer may be another text than
    those that are stored: JSON text, parts that are joined."""
    try:
        return _in_answers(rows, dialect) if dialect.chat is None else _in_turns(rows, dialect)
    except UnicodeDecodeError:
        return None


def _in_answers(rows: pa.Table, dialect: Dialect) -> np.ndarray[Any, Any] | None:
    """Of a column of answers. The prompt must be a text, too: turns there may end with the answer in another form."""
    answer = dialect.column("output") or dialect.column("response")
    texts = [name for name in (answer, dialect.column("prompt")) if name is not None]
    if answer is None or dialect.encoded or not all(_is_text(rows, name) for name in texts):
        return None
    return _refusing(rows.column(answer).to_pylist())


def _in_turns(rows: pa.Table, dialect: Dialect) -> np.ndarray[Any, Any] | None:
    """Of a column of chats: whether any turn refuses, as any may be the last that a model is trained on."""
    column = dialect.chat
    if column not in rows.schema.names or dialect.name not in KEYS or dialect.column("response") is not None:
        return None
    kind, (_, content) = rows.schema.field(column).type, KEYS[dialect.name]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return None
    fields = list(kind.value_type)
    if any(field.type.num_fields or isinstance(field.type, pa.BaseExtensionType) for field in fields):
        return None
    if [_is_string(field.type) for field in fields if field.name == content] != [True]:
        return None
    chats = rows.column(column).combine_chunks()
    refusing = _refusing(pc.struct_field(pc.list_flatten(chats), content).to_pylist())
    lengths = pc.list_value_length(chats).fill_null(0).to_numpy()
    found = np.zeros(len(chats), dtype=bool)
    found[np.repeat(np.arange(len(chats)), lengths)[refusing]] = True
    return found


def _is_text(rows: pa.Table, column: str) -> bool:
    return column in rows.schema.names and _is_string(rows.schema.field(column).type)


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _refusing(texts: Sequence[str | None]) -> np.ndarray[Any, Any]:
    return np.array([text is not None and opens_with_refusal(text) for text in texts], dtype=bool)
