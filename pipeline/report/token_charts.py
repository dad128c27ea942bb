"""What is drawn of a run that masks tokens: risk, place in the answer, share per sample, training and rounds.

Each chart is None when there is nothing to draw. Values that are not finite numbers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tamis.pipeline.report import charts, text
from tamis.pipeline.report.charts import Curve, Words

_POINTS = 300  # at most, per curve; a training may have 100,000 steps
_PLACE = "place of the token in its answer (0: the first)"


def risk_histogram(histogram: Mapping[str, Any], cut: float | None) -> Markup | None:
    """Tokens kept and discarded per bin of the risk, the cut as a line."""
    horizontal = "risk of a token: loss under the utility reference - loss under the harmful one"
    said = Words("Histogram of risks", "tokens", horizontal, "count")
    return charts.histogram(histogram, cut, said, "discarded", "risks")


def position_shares(positions: Sequence[Mapping[str, Any]], overall: float | None) -> Markup | None:
    """Share of discarded tokens by place in the answer, the overall share as a line."""
    shares = [text.whole(row.get("discarded")) / (text.whole(row.get("tokens")) or 1) for row in positions]
    said = Words("Share discarded by place in the answer", "share discarded", _PLACE, "share")
    return charts.columns(shares, list(map(place, positions)), said, range(len(shares)), level=overall)


def position_risks(positions: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Mean risk of the tokens by their place in the answer."""
    means = [text.number(row.get("mean_risk")) for row in positions]
    said = Words("Mean risk by place in the answer", "mean risk", _PLACE)
    return charts.columns(means, list(map(place, positions)), said)


def sample_shares(shares: Mapping[str, Any]) -> Markup | None:
    """Samples by the discarded share of their response tokens: first none, then equal steps."""
    rows = [text.whole(value) for value in shares.get("rows") or []]
    counts = [text.whole(shares.get("none")), *rows]
    if not rows or not any(counts):
        return None
    labels = ["none", *(f"{100 * (step + 1) / len(rows):.3g} %" for step in range(len(rows)))]
    horizontal = "share of a sample's response tokens that is discarded, up to"
    said = Words("Samples by share discarded", "samples", horizontal, "count")
    return charts.columns(counts, labels, said, range(1, len(counts)))


def training_curves(references: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Training loss by step, one line per trained reference."""
    curves = []
    # Trainings with the same number of epochs differ in steps: they can be compared by epoch.
    by_epoch = all(len(losses(reference, "epoch")) == len(losses(reference)) for reference in references)
    for reference in references:
        named = str(reference.get("name") or "reference")
        kind = "plain" if named == "utility" else "marked"
        points = _thinned(losses(reference, "epoch" if by_epoch else "step"))
        if points:
            curves.append(Curve(named, kind + (" again" if "-" in named else ""), points))
    title, vertical = "Training loss of the references", "loss (cross-entropy)"
    said = Words(title, vertical, "epoch") if by_epoch else Words(title, vertical, "step", across="count")
    return charts.curves(curves, said)


def round_curve(rounds: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The overlap of each round's mask with the final one; the mean risk where the overlap is not known."""

    def known(name: str) -> list[tuple[float, float]]:
        pairs = [(text.whole(row.get("round")), text.number(row.get(name))) for row in rounds]
        return [(at, value) for at, value in pairs if value is not None]

    if overlaps := known("overlap"):
        title, vertical = "Overlap with the final mask by round", "in common with the final mask"
        said = Words(title, vertical, "round", "share", "count")
        return charts.curves([Curve("", "marked", overlaps)], said, dots=True, bounds=(0.0, 1.0))
    said = Words("Mean risk by round", "mean risk", "round", across="count")
    return charts.curves([Curve("", "marked", known("mean_risk"))], said, dots=True)


def losses(reference: Mapping[str, Any], by: str = "step") -> list[tuple[float, float]]:
    """(step, loss) of a reference's training, in the order of the steps; by="epoch" gives (epoch, loss)."""
    pairs = [(text.number(point.get(by)), text.number(point.get("loss"))) for point in reference.get("curve") or []]
    return sorted((at, loss) for at, loss in pairs if at is not None and loss is not None)


def place(row: Mapping[str, Any]) -> str:
    """A position or a range of positions: "3", "64–127"."""
    return text.span(text.whole(row.get("low")), text.whole(row.get("high")))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about _POINTS points: means over stretches of equal length, so that no step is ignored."""
    stretch = math.ceil(len(points) / _POINTS)
    if stretch <= 1:
        return list(points)
    groups = [points[at : at + stretch] for at in range(0, len(points), stretch)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
