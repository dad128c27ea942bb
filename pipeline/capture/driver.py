"""Capture: shards -> one Parquet file of vectors and one receipt each. The stage that runs the model.

The graph is read + tokenise (CPU tasks) -> forward + write (actor pool, one model each). One block is one shard from
end to end. Batches never cross a shard, so a shard's numbers do not depend on the other shards. The actors write
their own output: a third operator only saved a few milliseconds of writing, but on a two-core machine it took every
other task slot from tokenising.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tamis.operators.problems import RowProblem
from tamis.operators.requests import Request
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.chosen_rows import among_column, evenly, only, refused_column
from tamis.pipeline.capture.graph import GraphLost, run_graph
from tamis.pipeline.capture.signs import Signs
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.capture.tokenise import PackedTokenizer
from tamis.pipeline.capture.worker import ModelWorker, TokenRows
from tamis.pipeline.cluster.pools import Pool, at_most
from tamis.pipeline.cluster.shortage import shortage
from tamis.pipeline.cluster.waiting import PATIENCE_SECONDS, wait_for_room
from tamis.pipeline.cluster.watchdog import start_watch
from tamis.pipeline.errors import ClusterError, ConfigError
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside, lines
from tamis.pipeline.terminal.voice import say_workers

if TYPE_CHECKING:
    from tamis.operators.forward.representations import Representer, Vectors

WORKER_TIMEOUT = 1800.0

_MAX_FAILED_GRAPHS = 3
"""Give up after this many graphs in a row that were lost before they finished a shard: that is no accident."""

_MAX_FAILED_SHARDS = 3
"""Give up after this many failed shards with none done: the cause is not in the shards."""


class Forward(ModelWorker):
    """Captures the vectors that the spec requests."""

    representer: Representer

    def engine(self) -> type[Representer]:
        from tamis.operators.forward.representations import Representer

        return Representer

    def load(self, path: str) -> None:
        spec = self.spec
        try:
            self.representer = self.engine().load(
                path,
                spec.requests,
                asides=[Request.parse(spec.aside)] if spec.aside else (),
                **spec.model.loading,
                attention=spec.attention,
                compile=spec.compile,
            )
        except ValueError as error:
            raise ConfigError(f"model {spec.model.name}: {error}") from None
        self.precision = f"{str(self.representer.dtype).removeprefix('torch.')} on {self.representer.device.type}"

    def run(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        vectors, problems = self.vectors(rows, on_batch)
        columns = {request.column: _vector_column(vectors[request]) for request in self.spec.requests}
        return {**columns, **self.of_some(rows, vectors, problems)}, problems

    def of_some(
        self, rows: TokenRows, vectors: Mapping[Request, Vectors], problems: Mapping[int, RowProblem]
    ) -> dict[str, pa.Array]:
        """The columns with the requests of some rows; none where the spec wants none."""
        if not self.spec.aside or rows.readable is None or rows.wanted is None:
            return {}
        found = vectors[Request.parse(self.spec.aside)]
        there = np.isfinite(found).all(axis=1) & (rows.finals[:, 0] > 0) & rows.readable
        there[list(problems)] = False
        return {
            refused_column(self.spec.aside): only(found, np.flatnonzero(there & rows.wanted)),
            among_column(self.spec.aside): only(found, evenly(np.flatnonzero(there), self.spec.among)),
        }

    def vectors(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[Request, Vectors], dict[int, RowProblem]]:
        """Request -> float32 (rows, d), NaN for rows with a problem; and the problems by row."""
        return self.representer.represent(
            rows.input_ids, rows.finals, token_budget=self.token_budget, exact=self.spec.exact, on_batch=on_batch
        )


def _vector_column(vectors: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def capture(
    spec: CaptureSpec,
    tokenizer: ChatTokenizer,
    shards: Sequence[Shard],
    pool: Pool,
    worker: type[ModelWorker] = Forward,
    *,
    on_set_aside: Callable[[SetAside], None] | None = None,
    timeout: float = WORKER_TIMEOUT,
    resize: Callable[[], Pool] | None = None,
    hopeful: bool = False,
    patience: float = PATIENCE_SECONDS,
    tell: Callable[[str], None] = say_workers,
    on_signs: Callable[[Signs], None] | None = None,
) -> Generator[Receipt]:
    """Capture every shard, and yield its receipt when it is written, in any order. worker: the class of the actors.

    on_set_aside: called with each failed shard (see cluster/watchdog.py); without it, the first one is an error.
    timeout: seconds without progress on a shard after which its worker counts as hung. resize: gives the pool for the
    rest of the cluster when nodes were lost. hopeful: other shards were captured before. patience: seconds to wait
    for room on the cluster. tell: called with what the run is waiting for. on_signs: called every second with the
    workers' progress. Raises TamisError as the workers raised it, ClusterError when Ray gave up.
    """
    left = {shard.name: shard for shard in shards}
    packed = PackedTokenizer.pack(tokenizer)
    given_up: list[SetAside] = []
    failed_graphs, anything, most = 0, hopeful, len(left)
    while left:
        before = len(left)
        pool = at_most(pool, min(len(left), most))
        wait_for_room(pool, patience, tell)
        watched = (start_watch(), timeout, patience, tell, on_signs)
        try:
            graph = run_graph(spec, packed, list(left.values()), pool, worker, *watched)
            with closing(graph) as outcomes:
                for outcome in outcomes:
                    if "set_aside" not in outcome:
                        del left[outcome["shard"]]
                        anything = True
                        yield outcome
                        continue
                    item = SetAside(**outcome["set_aside"])
                    del left[item.shard]
                    given_up.append(item)
                    _check_hope(given_up, anything, on_set_aside is not None)
                    if on_set_aside is not None:
                        on_set_aside(item)
            if left:
                raise GraphLost(f"{len(left)} shards went missing")
        except GraphLost as lost:
            failed_graphs = 0 if len(left) < before else failed_graphs + 1
            if failed_graphs == _MAX_FAILED_GRAPHS:
                raise ClusterError(
                    f"the workers could not be kept alive ({lost}); {shortage()}. What is captured stays; "
                    "run the same command again to go on"
                ) from None
            if lost.of_memory and pool.workers > 1:
                most = pool.workers // 2
                tell(f"memory ran short on a node; going on with {most} of {pool.workers} workers")
            pool = pool if resize is None else resize()


def _check_hope(given_up: Sequence[SetAside], anything: bool, allowed: bool) -> None:
    if not allowed or (not anything and len(given_up) >= _MAX_FAILED_SHARDS):
        raise ClusterError(
            "shards could not be captured, and the fault does not seem to be theirs:",
            *(f"  - {line}" for line in lines(given_up)),
            "what is captured stays; when the cause is mended, run the same command again to go on",
        )
