"""A stage that runs the model over shards, as a run calls it: finished shards are skipped, the others are watched."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

from tamis.operators.problems import UNSCORED
from tamis.pipeline.capture.chosen_rows import DRAWN_SHARDS
from tamis.pipeline.capture.driver import capture
from tamis.pipeline.capture.signs import Signs
from tamis.pipeline.capture.spec import SAMPLED_ROWS, SCORED, STAGE, CaptureSpec, capture_spec, known_as
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster import metrics
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.pools import Pool, pool_of, refit
from tamis.pipeline.errors import ConfigError, IncompleteError, InputError, InternalError
from tamis.pipeline.inputs.shards import CORPUS, Shard
from tamis.pipeline.planning.placement import readers_for
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run import receipts, set_aside
from tamis.pipeline.run.receipts import Receipt
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import Progress, phase
from tamis.pipeline.terminal.voice import warn_once

Timings = dict[str, dict[str, float]]
Captures = Callable[..., Generator[Receipt]]
"""`capture` with everything but its options bound."""
Start = Callable[[Sequence[Shard], Pool], Captures]


def run_capture(
    plan: Plan,
    store: Store,
    key: str,
    cluster: Cluster,
    timings: Timings,
    shards: Sequence[Shard],
    stage: str = STAGE,
    start: Start | None = None,
    before: CaptureTotals | None = None,
    said: str | None = None,
) -> CaptureTotals:
    """Capture the shards that have no receipt yet. start: runs the stage's workers on some shards; default: `capture`
    with the plan's requests. before: of shards that were captured apart, to which the totals are added. said:
    the stage's name for people. Raises InputError when too many rows are bad, ConfigError for mixed precisions,
    IncompleteError when a shard of references failed; failed shards of the corpus, and of rows drawn from it, are in
    the totals.
    """
    known = said or known_as(stage)
    phase(known, f"looking for what is done of {len(shards):,} shards")
    totals = CaptureTotals() if before is None else before.beside()
    finished = set()
    for receipt in receipts.done(store, stage, shards, key):
        totals.add(receipt, new=False)
        finished.add(receipt["shard"])
    left = [shard for shard in shards if shard.name not in finished]
    check_quarantine(plan, totals)
    if finished:
        check_precision(store, totals)
    rows = sum(shard.rows for shard in shards)
    if not left:
        Progress(known, rows, skipped=rows).finish()
    else:
        pool = pool_of(cluster, plan.job)
        pool = replace(pool, readers=readers_for(plan, sum(shard.rows_read for shard in left), pool))
        progress = Progress(known, rows, skipped=rows - sum(shard.rows for shard in left))
        began = time.monotonic()
        set_aside.forget(store, stage, left)
        corpus = {shard.name for shard in plan.shards}
        drawn = {shard.name for sample in plan.corpus_samples.values() for shard in sample.shards}

        def note(item: SetAside) -> None:
            set_aside.record(store, stage, item)
            if item.shard in drawn:
                totals.drawn_failed.append(item)
                progress.advance(item.rows)
                return
            if item.shard not in corpus:
                with_it = "" if plan.one_of_several is None else f" with {plan.one_of_several}"
                raise IncompleteError(f"references could not be captured{with_it}: {item.describe()}")
            totals.failed.append(item)
            progress.advance(item.rows, note=f"{len(totals.failed)} shards set aside")

        def resize() -> Pool:
            return refit(pool, plan.job)

        captures = (start or _vectors(plan, store, key, stage))(left, pool)
        watched = {"on_set_aside": note, "timeout": plan.job.worker_timeout, "resize": resize}
        watched |= {"patience": plan.job.cluster_patience, "on_signs": shown_on(progress)}
        # Closed here, so that the workers always stop before Ray does.
        with closing(captures(**watched, hopeful=bool(finished))) as new:
            for receipt in receipts.compacted(store, stage, key, new):
                totals.add(receipt, new=True)
                names_codes = stage in (STAGE, SCORED) and not plan.job.masks_tokens
                metrics.ledger().captured(receipt, known, names_codes=names_codes)
                progress.advance(receipt["rows"], receipt["tokens"])
                if len(totals.precisions) > 1:
                    receipts.forget(store, stage, [receipt["shard"]])
                check_precision(store, totals)
                if receipt.get("fallback") is not None:
                    warn_once(receipt["fallback"])
                check_quarantine(plan, totals)
        progress.finish()
        timings["model_load"] = {"seconds": totals.load_seconds}
        timings[known] = {
            "seconds": totals.seconds,
            "rows_per_second": totals.new_rows / max(totals.seconds, 1e-9),
            "tokens_per_second": totals.new_tokens / max(totals.seconds, 1e-9),
            "forward_seconds": totals.forward_seconds,
            "wall_seconds": time.monotonic() - began,
            **_workers(pool, totals),
        }
    wanted = sum(shard.rows for shard in shards if shard.role == CORPUS)
    if totals.rows + sum(item.rows for item in totals.failed) != wanted:
        raise InternalError(f"{totals.rows:,} rows were captured of {wanted:,}; run again, and report this")
    return totals


def _workers(pool: Pool, totals: CaptureTotals) -> dict[str, float]:
    """What each worker had, so that a later plan knows whether its own will be as fast. No GPU where torch found
    none."""
    on_gpus = any("cuda" in precision for precision in totals.precisions)
    return {"gpus_per_worker": pool.gpus_per_worker if on_gpus else 0.0, "threads": float(pool.threads or 0)}


def shown_on(progress: Progress) -> Callable[[Signs], None]:
    """A callback that shows the workers' progress on the line of the stage."""

    def show(signs: Signs) -> None:
        within = signs.within
        waits = "" if signs.at_work else "the model is loading" if signs.there else "workers are starting"
        progress.within(within.rows, within.tokens, waits)

    return show


def check_precision(store: Store, totals: CaptureTotals) -> None:
    """`auto` may mean another number format on another machine; vectors of two formats must not be compared."""
    if len(totals.precisions) > 1:
        raise ConfigError(
            f"output: {store.path()} was begun in another precision ({' and '.join(sorted(totals.precisions))}); go on "
            "where it was begun, set model.dtype and model.device alike, or choose another output folder"
        )


def check_quarantine(plan: Plan, totals: CaptureTotals, model: str | None = None) -> None:
    """Fail as soon as the limit is certain to be exceeded, not at the end of the run. model: whose rows they are, where
    a job has several; default: the plan's."""
    model = model or plan.one_of_several
    under = "" if model is None else f" with {model}"
    if totals.bad_references:
        lines = [f"{rows} × {code}" for code, rows in totals.bad_references.most_common()]
        raise InputError(f"reference rows could not be captured{under}:", lines)
    if totals.quarantined > plan.job.max_quarantined * plan.rows:
        lines = [
            f"{rows:,} × {code}: {totals.messages[code]} (e.g. {', '.join(totals.examples[code])})"
            for code, rows in totals.codes.most_common()
            if code not in UNSCORED
        ]
        raise InputError(
            f"{totals.quarantined:,} of {plan.rows:,} rows ({totals.quarantined / plan.rows:.1%}) cannot be used"
            f"{under}, above max_quarantined ({plan.job.max_quarantined:.1%}); mend them, "
            "or raise max_quarantined and run again:",
            lines,
        )


def _vectors(plan: Plan, store: Store, key: str, stage: str) -> Start:
    def start(shards: Sequence[Shard], pool: Pool) -> Captures:
        return partial(capture, vector_spec(plan, store, key, pool, stage), plan.tokenizer, shards, pool)

    return start


def vector_spec(plan: Plan, store: Store, key: str, pool: Pool, stage: str) -> CaptureSpec:
    """The spec of the plan's requests, with the requests of some rows where the job has unsafe references and this is
    its own model."""
    read = plan.requests_read if stage in (STAGE, SCORED) else None
    among = math.ceil(SAMPLED_ROWS / min(len(plan.shards), DRAWN_SHARDS)) if read is not None else 0
    return capture_spec(
        plan.job, plan.model, store, key, pool, plan.max_tokens, plan.requests, stage,
        aside=None if read is None else read[1], among=among,
    )  # fmt: skip
