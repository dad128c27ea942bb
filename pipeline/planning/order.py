"""In which order a job that scores samples runs: the whole corpus as vectors first, or the references first.

As vectors, the corpus and the references are captured in one pass, then the methods are fitted, then each vector is
read again for its score: 4 bytes a number, 16 kB a row and request where a state has 4,096 numbers. A method that is
fitted on its references alone, or on rows that are drawn from the corpus, needs no more of the corpus' vectors for
that. So the references and these rows may be captured and fitted first, and the corpus pass writes scores: 4 bytes a
row and method. It costs a second start of the workers, seconds to minutes whatever the corpus. So small corpora are
captured as vectors, unless keep_captures says scores.
"""

from __future__ import annotations

from tamis.pipeline.cluster.gpu_memory import shown
from tamis.pipeline.planning.corpus_sample import corpus_sides, without_vectors
from tamis.pipeline.planning.plan import BYTES_OF_A_NUMBER, Plan


def writes_scores(plan: Plan) -> bool:
    """Whether the corpus pass may write scores in place of vectors. False for a job that masks tokens."""
    job = plan.job
    if job.masks_tokens or job.keep_captures == "vectors":
        return False
    if plan.artifact is not None:
        return True  # everything is fitted already, and the workers start once
    if any(method.reads_corpus and name not in plan.corpus_samples for name, method in plan.methods.items()):
        return False
    # What rows are drawn for is that no vectors need be written.
    return bool(plan.corpus_samples) or without_vectors(job.keep_captures, bytes_of_vectors(plan))


def bytes_of_vectors(plan: Plan) -> int:
    """Of the whole corpus, LARF's too where its block is still to be found."""
    requests = len(plan.requests) + plan.unsettled
    return plan.rows * requests * plan.model_info.width * BYTES_OF_A_NUMBER


def bytes_of_drawn(plan: Plan) -> int:
    """Of the vectors of the rows that are drawn for the fit."""
    rows = sum(drawn.count for drawn in plan.corpus_samples.values())
    return rows * bytes_of_vectors(plan) // max(plan.rows, 1)


def corpus_side(plan: Plan) -> str:
    """Which rows stand for the corpus where a method can do with a sample, and why; empty where none can."""
    if plan.artifact is not None:
        return ""
    vectors, kept = shown(bytes_of_vectors(plan)), plan.job.keep_captures
    return "; ".join(corpus_sides(plan.methods, plan.corpus_samples, plan.rows, vectors, kept))


def bytes_of_scores(plan: Plan) -> int:
    return plan.rows * len(plan.methods) * BYTES_OF_A_NUMBER
