"""Safety demonstrations of a corpus: rows whose answer refuses and whose request looks harmful.

    found = {missing}                                      why they could not be told, in words; or
            {method, block, unsafe, corpus, auroc, threshold, above, refusing}       facts of RequestCut; and how many
                                                           refusing answers had a request that could be read
    the table: shard, row (0-based in the shard)           one line for each such row

The vectors were kept by the pass over the corpus (capture/chosen_rows.py). Nothing here decides what falls. The driver
holds the sample's vectors and the places of the rows that were found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.methods.request_side import RequestCut, request_cut
from tamis.operators.requests import Request
from tamis.pipeline.capture.chosen_rows import DRAWN_SHARDS, Numbers, among_column, chosen_in, refused_column, spread
from tamis.pipeline.cluster.tasks import map_reduce
from tamis.pipeline.fit.exact_cut import grouped, plus
from tamis.pipeline.run.paths import DEMONSTRATIONS, SCORES
from tamis.pipeline.storage.store import Sealed, Store, Written

FACTS = b"tamis.safety_demonstrations"
NO_REFERENCES = "no method of the job has unsafe references; add contrast to the job's methods for that"
NOT_CAPTURED = "an earlier tamis has captured a part of the rows, and nothing of their requests"
OF_ARTIFACT = "this run applies an artifact and captures no references, whose requests they are compared with"


def write_demonstrations(
    store: Store,
    captures: Store,
    read: tuple[str, Request],
    unsafe: Sequence[Sealed],
    corpus: Sequence[tuple[str, Sealed]],
) -> Written:
    """Find the safety demonstrations, and write their table. store: gets it. captures: where the tables lie. read: the
    method whose references are used, and its vector. unsafe: their tables. corpus: name and table of each shard."""
    method, request = read
    columns = refused_column(request.column), among_column(request.column)
    rows: list[tuple[str, Numbers]] = []
    files = [corpus[place][1] for place in spread(len(corpus), DRAWN_SHARDS)]
    try:
        references: list[Numbers | None] = map_reduce(_vectors, plus, grouped(unsafe), captures, columns[0])
        sample: list[Numbers | None] = map_reduce(_vectors, plus, grouped(files), captures, columns[1])
        cut = request_cut(_joined(references), _joined(sample))
        found: list[tuple[str, int, Numbers]] = map_reduce(_found, plus, grouped(corpus), captures, columns[0], cut)
        if any(read < 0 for _, read, _ in found):
            raise ValueError(NOT_CAPTURED)
    except ValueError as error:
        facts: dict[str, Any] = {"missing": str(error)}
    else:
        rows = [(shard, places) for shard, _, places in found]
        facts = {
            "method": method,
            "block": request.block,
            **{name: getattr(cut, name) for name in ("unsafe", "corpus", "auroc", "threshold", "above")},
            "refusing": sum(read for _, read, _ in found),
        }
    return store.write_table(DEMONSTRATIONS, _table(rows, facts))


def counted(store: Store, file: Sealed | None, tables: Mapping[str, Sealed], missing: str) -> dict[str, Any]:
    """The facts, with how many of the safety demonstrations are in kept and dropped. file: their table; without one,
    `missing` says why. tables: of scores/, by shard."""
    if file is None:
        return {"missing": missing}
    table = store.read_table(file)
    facts: dict[str, Any] = json.loads(table.schema.metadata[FACTS])
    if "missing" in facts:
        return facts
    shards = table.column("shard").to_numpy(zero_copy_only=False)
    places = table.column("row").to_numpy()
    starts = np.flatnonzero(np.append(True, shards[1:] != shards[:-1])) if len(shards) else np.array([], dtype=np.int64)
    parts = [(str(shards[each[0]]), places[each]) for each in np.split(np.arange(len(shards)), starts[1:]) if len(each)]
    own = [(tables[shard], rows) for shard, rows in parts if shard in tables]
    found = map_reduce(_decided, plus, grouped(own), store) if own else np.zeros(2, dtype=np.int64)
    return {**facts, "kept": int(found[0]), "dropped": int(found[1])}


def sealed_in(files: Iterable[Mapping[str, Any]]) -> Sealed | None:
    """The table of safety demonstrations among the entries of these files, if it is there."""
    found = [file for file in files if file["name"] == DEMONSTRATIONS]
    return Sealed(str(found[0]["name"]), str(found[0]["sha256"])) if found else None


def tables_of(files: Sequence[Mapping[str, Any]]) -> dict[str, Sealed]:
    """Shard -> its table in scores/. files: entries of what was written."""
    return {
        str(file["name"]).removeprefix(f"{SCORES}/").removesuffix(".parquet"): Sealed(file["name"], file["sha256"])
        for file in files
        if str(file["name"]).startswith(f"{SCORES}/")
    }


def _table(rows: Sequence[tuple[str, Numbers]], facts: Mapping[str, Any]) -> pa.Table:
    names = [name for name, places in rows for _ in range(len(places))]
    places = np.concatenate([np.zeros(0, np.int64), *(places for _, places in rows)])
    columns = {"shard": pa.array(names, pa.string()), "row": pa.array(places, pa.int64())}
    return pa.table(columns).replace_schema_metadata({FACTS: json.dumps(facts).encode()})


# --- in a task ----------------------------------------------------------------------------------------------------


def _vectors(group: Sequence[Sealed], store: Store, column: str) -> list[Numbers | None]:
    """Of each shard, the vectors in this column; None where it has none, as an earlier tamis wrote it."""
    tables = [store.read_table(file, [column]) for file in group]
    return [chosen_in(table.column(column))[1] if column in table.schema.names else None for table in tables]


def _found(
    group: Sequence[tuple[str, Sealed]], store: Store, column: str, cut: RequestCut
) -> list[tuple[str, int, Numbers]]:
    """Of each shard, how many refusing answers have a request, and the rows whose request looks harmful; -1 where it
    has no such column, as an earlier tamis wrote it."""
    found = []
    for shard, file in group:
        table = store.read_table(file, [column])
        if column not in table.schema.names:
            found.append((shard, -1, np.zeros(0, np.int64)))
            continue
        rows, vectors = chosen_in(table.column(column))
        found.append((shard, len(rows), rows[cut.harmful(vectors)]))
    return found


def _decided(group: Sequence[tuple[Sealed, Numbers]], store: Store) -> Numbers:
    """How many of the rows were kept and dropped."""
    total = np.zeros(2, dtype=np.int64)
    for file, places in group:
        decisions = store.read_table(file, ["decision"]).column("decision").take(pa.array(places))
        total += [pc.sum(pc.equal(decisions, name)).as_py() or 0 for name in ("kept", "dropped")]
    return total


def _joined(parts: Sequence[Numbers | None]) -> Numbers:
    """float32 (n, d). ValueError if a shard has none."""
    if any(part is None for part in parts):
        raise ValueError(NOT_CAPTURED)
    some = [part for part in parts if part is not None and len(part)]
    return np.concatenate(some) if some else np.zeros((0, 0), np.float32)
