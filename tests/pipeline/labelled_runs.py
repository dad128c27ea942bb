"""Finished runs of two shards a file, written without a model: input rows, their scores, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.run.paths import DROPPED, KEPT, MANIFEST, SCORES, table_of
from tamis.pipeline.run.row_places import said_of
from tamis.pipeline.storage.store import Store


def write_run(
    store: Store,
    files: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, Sequence[float | None]],
    decisions: Sequence[str],
    lengths: Sequence[int] | None = None,
    together: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """files: name -> its rows. scores: method -> a score for each row of all files. together: all shards share their
    files of kept/ and dropped/. The manifest."""
    written = []
    shared: dict[str, list[tuple[str, pa.Table]]] = {KEPT: [], DROPPED: []}
    before = index = 0
    names: dict[str, None] = {}
    for rows in files.values():
        names.update(dict.fromkeys(key for row in rows for key in row))
    for source, rows in files.items():
        half = (len(rows) + 1) // 2
        for start, part in ((0, rows[:half]), (half, rows[half:])):
            if not part:
                continue
            shard, here = f"{index:06d}-{index:016x}", slice(before, before + len(part))
            table = pa.table({name: [row.get(name) for row in part] for name in names})
            became = np.array(decisions[here])
            for folder, decision in ((KEPT, "kept"), (DROPPED, "dropped")):
                chosen = table.filter(pa.array(became == decision))
                if together:
                    shared[folder].append((shard, chosen))
                elif folder == KEPT or chosen.num_rows:
                    written.append(store.write_table(table_of(folder, shard), chosen))
            count = lengths[here] if lengths is not None else [5] * len(part)
            columns = {
                "sample_id": pa.array(sample_ids(source, start, len(part)), pa.string()),
                "source": pa.array([source] * len(part), pa.string()),
                "row": pa.array(range(start, start + len(part)), pa.int64()),
                **{name: pa.array(values[here], pa.float32()) for name, values in scores.items()},
                "decision": pa.array(became.tolist(), pa.string()),
                "n_tokens": pa.array([value + 5 for value in count], pa.int32()),
                "n_response_tokens": pa.array(count, pa.int32()),
                "truncated": pa.array([False] * len(part)),
            }
            written.append(store.write_table(table_of(SCORES, shard), pa.table(columns)))
            before, index = before + len(part), index + 1
    grouped = [_write_together(store, folder, tables) for folder, tables in shared.items() if tables]
    manifest: dict[str, Any] = {
        "complete": True,
        "fingerprint": {},
        "counts": {
            "rows_in": before,
            **{name: list(decisions).count(name) for name in ("kept", "dropped", "quarantined")},
        },
        "input": {"files": [{"path": source, "rows": len(rows)} for source, rows in files.items()]},
        "methods": [{"name": name, "title": name.upper(), "layer": 1, "position": "last_token"} for name in scores],
        "selected_by": next(iter(scores)),
        "selection": {"how": "drop 0.1", "cut": 0.5},
        "files": [*grouped, *(file.to_dict() for file in written)],
        **facts,
    }
    store.write_facts(MANIFEST, manifest)
    return manifest


def _write_together(store: Store, folder: str, tables: Sequence[tuple[str, pa.Table]]) -> dict[str, Any]:
    with store.writing_table(table_of(folder, tables[0][0]), tables[0][1].schema) as writer:
        for _, table in tables:
            writer.add(table)
    return {**writer.written.to_dict(), **said_of([(shard, table.num_rows) for shard, table in tables])}
