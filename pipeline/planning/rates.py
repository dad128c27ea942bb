"""How many tokens a second one worker takes: a number that is given, what an earlier run has measured, or a rough
assumption that is named as one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.models.keys import vector_keys_of
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.planning.rough import assumed_speed, stated_speed
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

HOW = (
    "give --rate TOKENS_PER_SECOND of one worker, its operations as --rate 400TFLOPS, or --rate OUT, the output of an "
    "earlier run of this model"
)
_OPERATIONS = re.compile(r"([\d.,_]+(?:e\d+)?)\s*([gt])flop(?:s|/s)?", re.IGNORECASE)
_UNITS = {"g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Rate:
    """tokens: of the corpus, a second and worker; None where that is not known. said: where the number comes from, or
    why there is none. assumed: nobody has measured or given it."""

    tokens: float | None
    said: str
    assumed: bool = False


def rate_of(given: str | None, plan: Plan, pool: Pool) -> Rate:
    """given: a number of tokens, of operations (`400TFLOPS`), or the folder or URL of a finished run; None: nothing is
    known, and a rate is assumed. pool: of the workers planned.

    Raises ConfigError for what is neither a number above 0 nor the output of a run.
    """
    if given is None:
        assumed = assumed_speed(plan, pool)
        return Rate(assumed.tokens, f"{assumed.said}; {HOW}", assumed=True)
    operations = _OPERATIONS.fullmatch(given.strip())
    try:
        number = float((operations[1] if operations else given).replace(",", "").replace("_", ""))
    except ValueError:
        return _measured(given, plan, pool)
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"--rate: {given} is no number above 0, of tokens a second or of operations (400TFLOPS)")
    if operations is None:
        return Rate(number, "given by --rate")
    a_second = number * _UNITS[operations[2].lower()]
    return Rate(stated_speed(plan, a_second), f"{number:,g} {operations[2].upper()}FLOP/s of a worker, given by --rate")


def _measured(where: str, plan: Plan, pool: Pool) -> Rate:
    store = Store(where, plan.job.storage_options)
    if not store.exists(MANIFEST):
        raise ConfigError(
            f"--rate: {where} is neither a number of tokens a second nor the output of a finished run ({MANIFEST} is "
            "not there)"
        )
    manifest = facts_in(store, MANIFEST)
    try:
        others = _differences(manifest, plan, pool)
        if others:
            return Rate(None, f"the run in {where} measured something else ({'; '.join(others)}); {HOW}")
        took = _timing(manifest)
        tokens, seconds = took["tokens_per_second"] * took["seconds"], took["forward_seconds"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return Rate(None, f"the manifest in {where} does not tell how fast its workers were; {HOW}")
    if not (tokens > 0 and seconds > 0):
        return Rate(None, f"the last command of the run in {where} captured nothing; {HOW}")
    return Rate(tokens / seconds, f"measured by the run in {where}, on its machines")


def _timing(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of the stage that runs the model over the whole corpus first: later rounds of toss-pro sort behind it."""
    timings = manifest["timings"]
    found: Mapping[str, Any] = timings[min(name for name in timings if "forward_seconds" in timings[name])]
    return found


def _differences(manifest: Mapping[str, Any], plan: Plan, pool: Pool) -> list[str]:
    """Why the speed of that run says nothing of this one. KeyError or ValueError where its manifest does not tell."""
    if not _same_kind(manifest, plan):
        return [f"it ran {', '.join(manifest['job']['method'])}"]
    theirs, took = manifest["fingerprint"], _timing(manifest)
    ours = {**plan.opened.keys, **vector_keys_of(plan.job.model)}
    found = [f"another {name}" for name, value in ours.items() if theirs.get(name) != value]
    if not plan.job.masks_tokens:
        deepest = max(_deepest(method) for method in manifest["methods"])
        if plan.unsettled:
            found.append("which block this one reads is not known yet")
        elif deepest != (wanted := max(request.block for request in plan.requests)):
            found.append(f"it ran the blocks up to {deepest}, this one up to {wanted}")
    if took["gpus_per_worker"] != pool.gpus_per_worker:
        found.append(f"{_of(took['gpus_per_worker'])} a worker, here {_of(pool.gpus_per_worker)}")
    elif not pool.gpus_per_worker and took["threads"] != (pool.threads or 0):
        found.append(f"{took['threads']:g} threads a worker, here {pool.threads or 0}")
    return found


def _deepest(method: Mapping[str, Any]) -> int:
    """The highest block that a method of a run has read."""
    return int(method["layer"] if method["layer"] is not None else max(method["facts"]["blocks"]))


def _same_kind(manifest: Mapping[str, Any], plan: Plan) -> bool:
    return (manifest.get("kind") == "tokens") == plan.job.masks_tokens


def _of(gpus: float) -> str:
    return f"{gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else "no GPU"
