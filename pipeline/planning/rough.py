"""A rough figure for the time and the memory of a run that nobody has measured: arithmetic, and assumptions that the
plan names.

    operations of a token = 2 x weights of the blocks that are read + 2 x width x context for each block

(causal attention; the same formula as benchmarks/cost_model.py, whose result docs/scale.md shows). Of a mixture of
experts all weights are counted, so it is too slow there.
"""

from __future__ import annotations

from typing import NamedTuple

from tamis.pipeline.cluster.gpu_memory import shown, weights_of
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.planning.plan import Plan

GPU_HALF, GPU_SINGLE, CPU_THREAD = 100e12, 25e12, 30e9
"""Assumed operations a second: of a GPU in bfloat16 or float16, of a GPU in float32, of a CPU thread. None of them is
a measurement: what a machine reaches differs by factors."""

_BLOCK_WEIGHTS = 12
"""Times width squared: the weights of one block of a usual decoder, where its files are not at hand."""

_BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Of a batch where model.token_budget is auto: TOKEN_BUDGETS of operators/forward/rows.py, which would import torch."""

_NUMBERS = 16
"""Times the width: the numbers that one token takes at once inside a block (its states, the MLP's middle), assumed."""

_DRIVER, _DRIVER_SHARD = 676e6, 7810.0
"""Bytes, measured at up to a million rows and 50,000 shards (docs/scale.md)."""

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


class Speed(NamedTuple):
    """tokens: a second of one worker. said: what was assumed."""

    tokens: float
    said: str


def operations(plan: Plan) -> tuple[float, str]:
    """Floating-point operations for one token of the corpus, and in words what they are of."""
    info, width = plan.model_info, plan.model_info.width
    whole = plan.job.masks_tokens or plan.unsettled
    blocks = info.blocks if whole else max(request.block for request in plan.requests) + 1
    # The rows of the embedding are looked up; its head multiplies them where losses are computed.
    table = info.vocabulary * width
    if plan.parameters is None:
        weights = blocks * _BLOCK_WEIGHTS * width**2 + table * plan.job.masks_tokens
        of = f"{blocks} blocks of 12 x {width:,} x {width:,} weights"
    else:
        weights = plan.parameters if plan.job.masks_tokens else max(plan.parameters - table, 0)
        of = f"{weights:,} weights in {blocks} blocks"
    context = min(plan.estimate.tokens_per_row, plan.max_tokens)
    once = 2 * weights + 2 * width * context * blocks
    return once * (2 if plan.job.masks_tokens else 1), of + (", under two models" if plan.job.masks_tokens else "")


def assumed_speed(plan: Plan, pool: Pool) -> Speed:
    """How many tokens a second a worker takes if it computes as fast as is assumed."""
    each, of = operations(plan)
    if pool.gpus_per_worker:
        _, dtype = weights_of(0, plan.job.model, on_gpu=True)
        # The blocks on the GPUs of one worker run one after the other.
        a_second = (GPU_SINGLE if dtype == "float32" else GPU_HALF) * min(pool.gpus_per_worker, 1.0)
        on = f"{a_second / 1e12:,.3g} TFLOP/s a worker in {dtype}"
    else:
        threads = pool.threads or max(int(pool.cpus_per_worker), 1)
        a_second = CPU_THREAD * threads
        on = f"{a_second / 1e9:,.3g} GFLOP/s on {threads} thread{'' if threads == 1 else 's'} a worker"
    said = f"roughly: {on} are assumed, not measured, and {each:,.3g} operations a token, {of}"
    return Speed(stated_speed(plan, a_second), said)


def stated_speed(plan: Plan, a_second: float) -> float:
    """Tokens a second of a worker that computes so many operations a second."""
    return a_second / max(operations(plan)[0], 1.0)


class Memory(NamedTuple):
    """Bytes of the driver, and of each worker: weights (None where the model's files are not at hand) and batches of
    `tokens` tokens."""

    driver: float
    weights: int | None
    batch: int
    tokens: int


def memory_of(plan: Plan, pool: Pool) -> Memory:
    """What the driver and each worker take, as far as the plan tells."""
    on_gpu = pool.gpus_per_worker > 0
    _, dtype = weights_of(0, plan.job.model, on_gpu=on_gpu)
    budget = plan.job.model.token_budget
    tokens = _BATCH_TOKENS["cuda" if on_gpu else "cpu"] if budget == "auto" else int(budget)
    # A row longer than the budget is a batch of its own; with model.exact every row is.
    longest = min(plan.max_tokens, round(plan.estimate.tokens_per_row))
    tokens = plan.max_tokens if plan.job.model.exact else max(tokens, longest)
    batch = tokens * _NUMBERS * plan.model_info.width * _DTYPE_BYTES[dtype]
    weights = None
    if plan.parameters is not None:
        weights, _ = weights_of(plan.parameters, plan.job.model, on_gpu=on_gpu)
    return Memory(_DRIVER + _DRIVER_SHARD * len(plan.shards), weights, batch, tokens)


def memory(plan: Plan, pool: Pool) -> str:
    """`memory_of` in words."""
    found = memory_of(plan, pool)
    weights = "its weights, which are not known here"
    if found.weights is not None:
        weights = f"{shown(found.weights)} of weights"
    return (
        f"the driver about {shown(found.driver)} (as measured in docs/scale.md); each worker {weights} and, roughly, "
        f"{shown(found.batch)} for batches of {found.tokens:,} tokens ({_NUMBERS} numbers of the width a token are "
        "assumed), besides Python and its libraries"
    )
