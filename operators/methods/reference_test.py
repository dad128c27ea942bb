"""A method tested on its own references: fitted without a fold of them, it scores that fold. K folds, every row once.

The unsafe references of a fold are compared with rows that the same fit has not seen either: with the safe references
of the fold, where the method has some, and with rows of the corpus. What a fit takes from the corpus, it takes here
from the sample without the fold. A method that takes no references is fitted on the corpus alone: its own artifact
scores the references of another method of the job, which had no part in it.

Rows of one place in the unsafe and the safe file share a fold, because they are usually answers to one prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tamis.operators.methods.csa import Csa
from tamis.operators.methods.protocol import CORPUS, Artifact, Features, Method, reduce_in_process
from tamis.operators.statistics.telling import Fold

FOLDS = 5
FEWEST = 10
"""Rows on either side: an interval from fewer says little of rows that were not drawn."""
UNSAFE, SAFE = "unsafe", "safe"


class Untested(ValueError):
    """The method cannot be tested in this way. The message says why, for people."""


@dataclass(frozen=True, eq=False)
class Rows:
    """features: of every row, (n, d) by column. lengths: int64 (n,), response tokens. places: int64 (n,), of each row
    in its file: it decides the fold."""

    features: Features
    lengths: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        return Rows({name: rows[chosen] for name, rows in self.features.items()}, self.lengths[chosen],
                    self.places[chosen])  # fmt: skip


def held_out(
    method: Method, blocks: int, artifact: Artifact, sets: Mapping[str, Rows], corpus: Rows | None, folds: int = FOLDS
) -> dict[str, list[Fold]]:
    """The folds by what the unsafe references are compared with: SAFE, if the method has such a set, and CORPUS.

    artifact: of the whole run. sets: the references of the method by source; for a method without any, UNSAFE of
    another one. corpus: rows of the corpus, where their vectors are known. Raises Untested.
    """
    if isinstance(method, Csa) and method.models:
        raise Untested("its score is the mean over several models, and the references are known by the first alone")
    sources = method.sources()
    if UNSAFE not in sets or (sources and UNSAFE not in sources):
        raise Untested("it has no unsafe references to be tested on")
    against = {**({SAFE: sets[SAFE]} if SAFE in sources else {}), **({} if corpus is None else {CORPUS: corpus})}
    if not against:
        raise Untested("no vectors of corpus rows were captured to test it against")
    few = [f"{len(rows)} {name}" for name, rows in {UNSAFE: sets[UNSAFE], **against}.items() if len(rows) < FEWEST]
    if few:
        raise Untested(f"of the rows to test it on, only {' and '.join(few)} could be used; it takes {FEWEST} of each")
    known = {**{source: sets[source] for source in sources}, **({} if corpus is None else {CORPUS: corpus})}
    found: dict[str, list[Fold]] = {name: [] for name in against}
    for fold in range(folds):
        own = artifact
        if sources:
            kept = {name: rows.where(rows.places % folds != fold) for name, rows in known.items()}
            own = _fitted(method, blocks, kept)
        unsafe = sets[UNSAFE].where(sets[UNSAFE].places % folds == fold)
        scores = _scores(method, own, unsafe)
        for name, rows in against.items():
            others = rows.where(rows.places % folds == fold)
            found[name].append(Fold(scores, _scores(method, own, others), unsafe.lengths, others.lengths))
    return found


def _fitted(method: Method, blocks: int, kept: Mapping[str, Rows]) -> Artifact:
    try:
        return method.fit(reduce_in_process({name: [rows.features] for name, rows in kept.items()}), blocks)
    except Exception as error:  # of a method that may be anyone's: a test that fails must not end a run that works
        what = str(error) if isinstance(error, ValueError) else type(error).__name__
        raise Untested(f"it cannot be fitted without a fold of its references ({what})") from None


def _scores(method: Method, artifact: Artifact, rows: Rows) -> npt.NDArray[np.float64]:
    try:
        scores = method.score(artifact, rows.features).astype(np.float64)
    except Exception as error:  # as above
        raise Untested(f"it fails to score some of the rows ({type(error).__name__})") from None
    if scores.shape != (len(rows),) or not np.isfinite(scores).all():
        raise Untested("it gives no finite score to some of the rows")
    return scores
