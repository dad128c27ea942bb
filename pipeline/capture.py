"""Capture: shards -> one Parquet of vectors and one receipt each. The stage that runs the model.

The graph is read + tokenise (CPU tasks) -> forward + write (actor pool, one model each). One block is one shard from
end to end; batches never cross a shard, so a shard's numbers do not depend on what else ran. The actors write: a
third operator, for a few milliseconds of writing, took the tokenising every other slot of a two-core machine.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.forward import Representer
from tamis.operators.problems import RowProblem
from tamis.pipeline.capture_spec import CaptureSpec
from tamis.pipeline.engine import Pool, own_error
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.model_worker import ModelWorker, TokenRows
from tamis.pipeline.receipts import Receipt
from tamis.pipeline.sources import Shard
from tamis.pipeline.tokenising import tokenise_shard

ACTOR_RESTARTS = 3


class Forward(ModelWorker):
    """Captures the vectors that the spec requests."""

    representer: Representer

    def load(self, path: str) -> None:
        spec = self.spec
        self.representer = Representer.load(
            path,
            spec.requests,
            dtype=spec.dtype,
            device=spec.device,
            trust_remote_code=spec.trust_remote_code,
            allow_pickle_weights=spec.allow_pickle_weights,
            attention=spec.attention,
            compile=spec.compile,
        )
        self.precision = f"{str(self.representer.dtype).removeprefix('torch.')} on {self.representer.device.type}"

    def run(self, rows: TokenRows) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        vectors, problems = self.representer.represent(
            rows.input_ids, rows.finals, token_budget=self.token_budget, exact=self.spec.exact
        )
        return {request.column: _vector_column(vectors[request]) for request in self.spec.requests}, problems


def _vector_column(vectors: np.ndarray[Any, Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def capture(
    spec: CaptureSpec, shards: Sequence[Shard], pool: Pool, worker: type[ModelWorker] = Forward
) -> Iterator[Receipt]:
    """Capture every shard, and yield its receipt when it is written, in any order. worker: what runs the model.

    Raises TamisError as the workers raised it, ClusterError when Ray gave up.
    """
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    if not shards:
        return
    tasks = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": pool.task_cpus, "compute": TaskPoolStrategy()}
    items = [{"shard": shard.to_json()} for shard in shards]
    with warnings.catch_warnings():
        # Ray 2.60 takes finite restarts only by a way that 2.64 will take away; its default is to restart for ever.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        dataset = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(tokenise_shard, fn_kwargs={"spec": spec}, **tasks)
            .map_batches(
                worker,
                fn_constructor_kwargs={"spec": spec},
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=pool.cpus_per_worker,
                num_gpus=pool.gpus_per_worker or None,
                compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2),
                max_restarts=ACTOR_RESTARTS,
                max_task_retries=ACTOR_RESTARTS,
                # Without it several models may land on one node while others idle.
                scheduling_strategy="SPREAD",
            )
        )
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["receipt"])
    except TamisError:
        raise
    except Exception as error:
        found = own_error(error)
        if isinstance(found, TamisError):
            raise found from None
        raise ClusterError(
            f"the capture stopped: {type(found).__name__}: {' '.join(str(found).split())[:300]}. What is captured "
            "stays; run the same command again to go on"
        ) from error
