"""What the page and the end of a command say of drift: new data against the corpus that the artifact was made on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import text

LEAD = (
    "The cut was not made on this corpus: it is that of the artifact in {}. Each figure is a population stability "
    "index (PSI) between both corpora: 0 where they are alike, up to 0.1 little, up to 0.25 something has moved, above "
    "that another population. Below what chance does with so few rows (once in a thousand times), it says nothing."
)
_SCORES = "Scores in tenths of the artifact's corpus: high where other kinds of samples came, or another mix of them."
_READINGS = {
    "share beyond the cut": "How much the cut drops, {} then and {} now: high where the risk itself has moved.",
    "answer lengths": "Response tokens in tenths of the artifact's corpus: high where answers grew longer or shorter.",
    "quarantine": "Rows that cannot be scored, by their code, {} then and {} now: high where the data is broken anew.",
}


def view(drift: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The section of the page; None without drift."""
    if not drift:
        return None
    figures = list(drift.get("figures") or [])
    return {
        "lead": LEAD.format(drift.get("artifact")),
        "limit": text.number(drift.get("limit")),
        "exceeded": list(drift.get("exceeded") or []),
        "rows": [_row(figure, drift) for figure in figures],
        "codes": [(code, _share(drift, counts, "rows")) for code, counts in (drift.get("quarantine") or {}).items()],
    }


def _row(figure: Mapping[str, Any], drift: Mapping[str, Any]) -> dict[str, Any]:
    name = str(figure["name"])
    shares = {"share beyond the cut": _share(drift, drift["fell"], "scored"), "quarantine": _out(drift)}.get(name, ())
    return {
        "name": name,
        "psi": f"{figure['psi']:.3f}",
        "chance": f"{figure['by_chance']:.3f}",
        "state": _state(figure, text.number(drift.get("limit")), name in (drift.get("exceeded") or ())),
        "reading": _READINGS.get(name, _SCORES).format(*shares),
        "above": name in (drift.get("exceeded") or ()),
    }


def _state(figure: Mapping[str, Any], limit: float | None, above: bool) -> str:
    if limit is None:
        return "no limit is set"
    if above:
        return "above the limit"
    return "too few rows to tell" if figure["by_chance"] > limit else "within the limit"


def _share(drift: Mapping[str, Any], counts: Mapping[str, Any], of: str) -> tuple[str, str]:
    """The shares then and now."""
    return text.share(counts["then"], drift[of]["then"]), text.share(counts["now"], drift[of]["now"])


def _out(drift: Mapping[str, Any]) -> tuple[str, str]:
    codes = (drift.get("quarantine") or {}).values()
    return _share(drift, {when: sum(counts[when] for counts in codes) for when in ("then", "now")}, "rows")


def lines(drift: Mapping[str, Any] | None) -> list[str]:
    """For the terminal: one line for all figures, one for the share beyond the cut."""
    if not drift:
        return []
    limit = "no limit" if drift["limit"] is None else f"limit {drift['limit']:g}"
    figures = ", ".join(f"{figure['name']} {figure['psi']:.2f}" for figure in drift["figures"])
    then, now = _share(drift, drift["fell"], "scored")
    return [f"PSI ({limit}): {figures}", f"beyond the cut: {now} now, {then} in the artifact's corpus"]


def warnings(drift: Mapping[str, Any]) -> list[str]:
    """What the run warns of."""
    said = []
    above: Sequence[str] = drift["exceeded"]
    if above:
        said.append(
            f"the data has drifted from that of the artifact ({', '.join(above)}): look at the samples before you use "
            "the output, and at whether the artifact should be made anew"
        )
    if drift["limit"] is not None:
        few = [figure["name"] for figure in drift["figures"] if figure["by_chance"] > drift["limit"]]
        if few:
            now, then = drift["scored"]["now"], drift["scored"]["then"]
            said.append(
                f"drift: with {now:,} scored rows, and {then:,} in the artifact's corpus, chance alone may exceed "
                f"drift_limit ({', '.join(few)}); such a figure counts only above that"
            )
    return said
