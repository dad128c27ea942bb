"""What `tamis plan` says of a run beyond its plan: what it asks of the cluster, what it writes, how long it takes.

All of it is arithmetic on the plan's own numbers. What they do not tell is assumed in rough.py, and named.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from tamis.pipeline.cluster.gpu_memory import shown
from tamis.pipeline.cluster.machines import on_gpus
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.job.sections import WorkerRange
from tamis.pipeline.planning.order import bytes_of_drawn, bytes_of_scores, bytes_of_vectors, writes_scores
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.planning.rates import Rate, rate_of
from tamis.pipeline.planning.rough import memory, memory_of
from tamis.pipeline.run.paths import WORK

_BYTES_OF_A_NUMBER = 4
_CAPTURED_BYTES = 12
"""Of one token under TOSS, at most: its id and two losses."""

_TRAINED_BYTES = 17
"""Of one token in kept/ under TOSS: input_ids, attention_mask, labels, token_risk."""


def foretold(plan: Plan, rate: str | None, *, begun: bool = False) -> Plan:
    """A placed plan with its forecast. rate: as for `rate_of`. begun: whether an earlier command has done a part; the
    forecast is of the whole run all the same. Raises ConfigError as `rate_of` does."""
    assert plan.placement is not None
    pool = plan.placement.pool
    assert pool is not None
    found = rate_of(rate, plan, pool)
    said = {
        "asks for": asks(pool, plan.placement.readers, _least(plan, pool)),
        "writes": writes(plan),
        "time": time(plan, pool, found),
        "memory": memory(plan, pool),
    }
    for number, each in enumerate(plan.further, 2):
        own = plan.under(each)
        said[f"time, model {number}"] = time(own, pool, rate_of(None, own, pool))
        said[f"memory, model {number}"] = memory(own, pool)
    if begun:
        said = {name: f"{text}; all of the run, with what is done already" for name, text in said.items()}
    return replace(plan, forecast=said, figures=figures(plan, pool, found))


def figures(plan: Plan, pool: Pool, rate: Rate) -> dict[str, Any]:
    """The numbers of `time` and `memory`; None where one is not known. seconds: of the forward passes, on `workers`."""
    passes = _passes(plan, pool, rate)
    held = memory_of(plan, pool)
    return {
        "computed_tokens": round(plan.estimate.computed_per_row * plan.rows),
        "tokens_per_second": rate.tokens,
        "assumed": rate.assumed,
        "workers": pool.workers,
        "seconds": passes[pool.workers] if passes else None,
        "driver_bytes": round(held.driver),
        "weight_bytes": held.weights,
        "batch_bytes": held.batch,
        "further_models": [
            {"model": each.name, **figures(own, pool, rate_of(None, own, pool))}
            for each, own in ((each, plan.under(each)) for each in plan.further)
        ]
        or None,
    }


def _least(plan: Plan, pool: Pool) -> int:
    """The fewest workers that the job may run with from its beginning to its end."""
    return pool.least if isinstance(plan.job.workers, WorkerRange) else pool.workers


def asks(pool: Pool, readers: int, least: int) -> str:
    """GPUs and CPUs of all workers and readers together. least: the fewest workers."""
    share, count = pool.gpus_per_worker, pool.workers
    tasks = f"{readers:,} reader{'' if readers == 1 else 's'}"
    if not share:
        return f"{pool.cpus_per_worker:g} CPU for each worker, {pool.task_cpus:g} for each of {tasks}"
    a_gpu = on_gpus(1, share)
    gpus, fewest = (math.ceil(number / a_gpu) if a_gpu else number * share for number in (count, least))
    wanted = f"{f'{fewest:g} to ' if fewest < gpus else ''}{gpus:g} GPU{'' if gpus == 1 else 's'}"
    cpus = f"at most 1 CPU for each worker and each of {tasks}, {count + readers:,} in all"
    return f"{wanted}, {share:g} a worker; {cpus}"


def writes(plan: Plan) -> str:
    """Bytes of what the stages leave for each other, and what the output holds."""
    rows = f"the {plan.rows:,} rows again, as Parquet (the input has {shown(plan.bytes)})"
    kept = ", removed at the end" if plan.job.keep_captures == "none" else ""
    if plan.job.masks_tokens:
        tokens = plan.estimate.computed_per_row * plan.rows
        rounds = f"; each round {_BYTES_OF_A_NUMBER} bytes a token more" if plan.job.method == ["toss-pro"] else ""
        return (
            f"at most about {shown(tokens * _CAPTURED_BYTES)} of losses under {WORK}{kept}{rounds}; {rows}, with "
            f"{shown(tokens * _TRAINED_BYTES)} of training columns before compression"
        )
    vectors = shown(bytes_of_vectors(plan))
    if writes_scores(plan):
        scores = shown(bytes_of_scores(plan))
        drawn = f" and {shown(bytes_of_drawn(plan))} of vectors of the drawn rows" if plan.corpus_samples else ""
        first = "" if plan.artifact is not None else f", after the references{drawn} were captured and fitted"
        return (
            f"about {scores} of scores under {WORK}{kept}, in place of {vectors} of vectors{first}; {rows}, and scores"
        )
    gone = ", removed at the end" if plan.job.keep_captures != "vectors" else ""
    return f"about {vectors} of vectors under {WORK}{gone}; {rows}, and scores"


def time(plan: Plan, pool: Pool, rate: Rate) -> str:
    """How long the forward passes over the whole corpus take."""
    if rate.tokens is None:
        return f"not known: {rate.said}"
    tokens = plan.estimate.computed_per_row * plan.rows
    passes = _passes(plan, pool, rate)
    if not passes:
        return "not known: no sampled row has tokens that would be computed"
    counts, shards = list(passes), len(plan.shards)
    each = [f"{clock(passes[count])} on {count:,} worker{'' if count == 1 else 's'}" for count in counts]
    if shards < counts[0]:
        each[-1] += f" (with {shards:,} shard{'' if shards == 1 else 's'}, no more than that many have work)"
    speed = f"{tokens:,.0f} tokens at {_number(rate.tokens)} a second and worker ({rate.said})"
    return f"about {', '.join(each)}: {speed}. Not in it: {', '.join(_besides(plan))}"


def _passes(plan: Plan, pool: Pool, rate: Rate) -> dict[int, float]:
    """Number of workers -> seconds of the forward passes, the most workers first; empty where that is not known."""
    tokens = plan.estimate.computed_per_row * plan.rows
    if not tokens or rate.tokens is None:
        return {}
    counts = sorted({_least(plan, pool), pool.workers}, reverse=True)
    shards = len(plan.shards)
    # A shard is never shared: the last ones leave workers idle, and more workers than shards are of no use.
    return {count: tokens / rate.tokens / shards * math.ceil(shards / count) for count in counts}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _besides(plan: Plan) -> list[str]:
    """What else takes time."""
    found = ["the start of Ray and of the workers", "the fit", "the output"]
    if plan.unsettled:
        found.insert(1, "the search for LARF's block")
    if plan.corpus_samples:
        found.insert(1, "the pass over the drawn rows")
    if plan.job.masks_tokens:
        found.insert(1, "the training of reference models")
    if plan.job.method == ["toss-pro"]:
        rounds = plan.job.of("toss-pro").rounds
        found.insert(2, f"{rounds:,} more pass{'es' * (rounds > 1)} under one model")
    return found


def clock(seconds: float) -> str:
    """Two units at most, e.g. 5 h 12 min; a second at least."""
    if seconds < 59.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    days, left = divmod(hours, 24)
    if days:
        return f"{days:,} d {left} h"
    return f"{hours} h {rest:02d} min" if hours else f"{minutes} min"
