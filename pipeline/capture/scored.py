"""The corpus pass where the artifacts are known before it: each worker scores its vectors and writes the scores alone.

A vector of 4,096 numbers takes 16 kB in a captured table, a score 4 bytes. The vectors go through the methods' own
`score` in the worker, all rows of a shard at once, as the fit would have read them from the table: so the scores are
those that it would have written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.methods import Method
from tamis.operators.methods.scoring import scores_of
from tamis.operators.problems import RowProblem
from tamis.pipeline.capture.chosen_rows import evenly, only
from tamis.pipeline.capture.driver import Forward, capture
from tamis.pipeline.capture.spec import SAMPLED_ROWS, SCORED, CaptureSpec, sample_column, score_column
from tamis.pipeline.capture.stage import Captures, Start, vector_spec
from tamis.pipeline.capture.worker import TokenRows
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.run.folder import key_of
from tamis.pipeline.run.frozen import read_artifacts
from tamis.pipeline.run.paths import ARTIFACT, artifact_under, stage_under
from tamis.pipeline.storage.store import Sealed, Store

Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ScoringSpec(CaptureSpec):
    """methods: by name. artifact: the files of the output's artifact/ that hold what they were fitted to. A worker
    reads them itself: the tasks that tokenise get this spec, too, and need none of it. sampled: how many rows of each
    shard keep their vectors, for the test of the methods. folder: of the artifact."""

    methods: Mapping[str, Method] = field(default_factory=dict)
    artifact: tuple[Sealed, ...] = ()
    sampled: int = 0
    folder: str = ARTIFACT


class Scorer(Forward):
    """Captures one float32 column per method: the score of each row."""

    spec: ScoringSpec

    def load(self, path: str) -> None:
        self.artifacts = read_artifacts(self.spec.store, self.spec.artifact, self.spec.methods, self.spec.folder)
        super().load(path)

    def run(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        vectors, problems = self.vectors(rows, on_batch)
        valid = np.ones(len(rows.input_ids), dtype=bool)
        valid[list(problems)] = False
        scored = {request: vectors[request] for request in self.spec.requests}
        features = {request.column: found[valid] for request, found in scored.items()}
        try:
            scores = scores_of(self.spec.methods, self.artifacts, features, int(valid.sum()))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        columns = {score_column(name): _spread(found, valid) for name, found in scores.items()}
        if self.spec.sampled:
            chosen = evenly(np.flatnonzero(valid), self.spec.sampled)
            columns |= {sample_column(request.column): only(found, chosen) for request, found in scored.items()}
        return {**columns, **self.of_some(rows, vectors, problems)}, problems


def _spread(scores: Numbers, valid: Numbers) -> pa.Array:
    """One score per row, null where the row has a problem."""
    full = np.zeros(len(valid), dtype=np.float32)
    full[valid] = scores
    return pa.array(full, mask=~valid)


def scored_key(key: str, artifact: Sequence[Sealed]) -> str:
    """The key of the corpus pass that scores: scores of another fit never count. key: of captured vectors."""
    return key_of({"captured": key, "scored with": sorted(artifact)})


def scoring(plan: Plan, store: Store, key: str, artifact: Sequence[Sealed], under: int = 0) -> Start:
    """The workers of SCORED. key: as `scored_key` gives it. under: the number of the further model of CSA that the plan
    is of; 0 for the job's own."""

    def start(shards: Sequence[Shard], pool: Pool) -> Captures:
        base = vector_spec(plan, store, key, pool, stage_under(SCORED, under) if under else SCORED)
        # An artifact that is applied brings the test of its methods along, and the mean over several models has none.
        untested = plan.artifact is not None or under
        sampled = 0 if untested else math.ceil(SAMPLED_ROWS / len(plan.shards))
        folder = artifact_under(under) if under else ARTIFACT
        spec = ScoringSpec(**vars(base), methods=plan.methods, artifact=tuple(artifact), sampled=sampled, folder=folder)
        return partial(capture, spec, plan.tokenizer, shards, pool, Scorer)

    return start
