"""All that a worker needs to run the model over shards: plain values, so that a restarted actor can receive them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tamis.operators.requests import Request
from tamis.pipeline.cluster.pools import Pool, device_of
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.models.fetch import ModelSource
from tamis.pipeline.run.paths import stage_folder
from tamis.pipeline.storage.store import Sealed, Store

STAGE = "capture"
CAPTURES = stage_folder(STAGE)


class Captured(NamedTuple):
    """What a shard's receipt says. file: the captured table. input: digest of the rows that it was made from."""

    file: Sealed
    input: str


@dataclass(frozen=True)
class CaptureSpec:
    """columns: names of the requests. stage: the folder of the captured tables, and of the receipts. gpus: GPUs that
    Ray gives the worker."""

    store: Store
    options: Mapping[str, Any]
    key: str
    model: str
    revision: str | None
    trust_remote_code: bool
    allow_pickle_weights: bool
    dtype: str
    device: str
    threads: int | None
    token_budget: int | str
    attention: str
    compile: bool
    exact: bool
    max_tokens: int
    overlong: str
    columns: tuple[str, ...]
    stage: str = STAGE
    gpus: float = 0.0

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(Request.parse(column) for column in self.columns)


def capture_spec(
    job: LayersJob,
    model: ModelSource,
    store: Store,
    key: str,
    pool: Pool,
    max_tokens: int,
    requests: Iterable[Request],
    stage: str = STAGE,
) -> CaptureSpec:
    """The spec for the settings of the job. key: digest of the settings on which the vectors depend."""
    spec = job.model
    return CaptureSpec(
        store=store,
        options=job.storage_options,
        key=key,
        model=model.path if model.revision == "local" else spec.name,
        # The commit that the plan saw, so that every worker reads the same files.
        revision=None if model.revision == "local" else model.revision,
        trust_remote_code=spec.trust_remote_code,
        allow_pickle_weights=spec.allow_pickle_weights,
        dtype=spec.dtype,
        device=device_of(spec.device, pool),
        threads=pool.threads,
        token_budget=spec.token_budget,
        attention=spec.attention,
        compile=spec.compile,
        exact=spec.exact,
        max_tokens=max_tokens,
        overlong=job.overlong,
        columns=tuple(request.column for request in requests),
        stage=stage,
        gpus=pool.gpus_per_worker,
    )
