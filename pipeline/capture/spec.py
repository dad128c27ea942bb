"""All that a worker needs to run the model over shards: plain values, so that a restarted actor can receive them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tamis.operators.requests import Request
from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.job.job_file import LayersJob
from tamis.pipeline.models.fetch import ModelSource
from tamis.pipeline.models.handle import ModelHandle, handle_of
from tamis.pipeline.run.paths import SCORED_STAGE, VECTORS_STAGE, stage_folder
from tamis.pipeline.storage.store import Sealed, Store

STAGE = VECTORS_STAGE
CAPTURES = stage_folder(STAGE)
SCORED = SCORED_STAGE


def known_as(stage: str) -> str:
    """The stage as people and metrics know it: both are the pass of the model over the corpus."""
    return STAGE if stage == SCORED else stage


def score_column(method: str) -> str:
    """The column of a method's scores in a table of SCORED."""
    return f"score.{method}"


SAMPLED_ROWS = 500
"""Of so many rows of the corpus, SCORED keeps the vectors, too: the methods are tested on them."""


def sample_column(column: str) -> str:
    """The column of those vectors in a table of SCORED; null in all other rows. column: of the request."""
    return f"sample.{column}"


class Captured(NamedTuple):
    """What a shard's receipt says. file: the captured table. input: digest of the rows that it was made from."""

    file: Sealed
    input: str


@dataclass(frozen=True)
class CaptureSpec:
    """columns: names of the requests. stage: the folder of what is captured, and of the receipts. run: its id, for
    metrics. aside: the vector that is kept of some rows besides (capture/chosen_rows.py), empty for none; among: of how
    many rows of a shard, whatever their answer."""

    store: Store
    options: Mapping[str, Any]
    key: str
    model: ModelHandle
    token_budget: int | str
    attention: str
    compile: bool
    exact: bool
    max_tokens: int
    overlong: str
    columns: tuple[str, ...]
    stage: str = STAGE
    run: str = ""
    aside: str = ""
    among: int = 0

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
    *,
    aside: Request | None = None,
    among: int = 0,
) -> CaptureSpec:
    """The spec for the settings of the job. key: digest of the settings on which the vectors depend. aside, among: as
    for CaptureSpec."""
    spec = job.model
    return CaptureSpec(
        store=store,
        options=job.storage_options,
        key=key,
        model=handle_of(spec, model, pool, job.storage_options),
        token_budget=spec.token_budget,
        attention=spec.attention,
        compile=spec.compile,
        exact=spec.exact,
        max_tokens=max_tokens,
        overlong=job.overlong,
        columns=tuple(request.column for request in requests),
        stage=stage,
        run=metrics.ledger().run,
        aside="" if aside is None else aside.column,
        among=among,
    )
