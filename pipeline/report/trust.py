"""Can this result be trusted? The checks at the head of every report, in plain language with their numbers.

The most important check: do the scores follow the length of the answer? A filter that beats a random removal, but not a
removal matched by length, is a length filter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tamis.pipeline.report import share_table, text

STRONG_CORRELATION = 0.5
DECILE_EXCESS = 3.0
NOTABLE_SHARE = 0.01


@dataclass(frozen=True)
class Check:
    """state: ok, attention (look before using the result), or unknown (could not be checked)."""

    state: Literal["ok", "attention", "unknown"]
    title: str
    words: str


def checks(summary: Mapping[str, Any]) -> list[Check]:
    """All checks; those that need attention come first."""
    counts = summary.get("counts") or {}
    found = [
        accounted(counts),
        _amount(counts),
        length_check(summary),
        quarantined(counts),
        truncated(counts, summary.get("job") or {}),
        *_ties(summary),
    ]
    return most_urgent_first(found)


def most_urgent_first(found: Iterable[Check]) -> list[Check]:
    order = {"attention": 0, "unknown": 1, "ok": 2}
    return sorted(found, key=lambda check: order[check.state])


def length_check(summary: Mapping[str, Any]) -> Check:
    """Whether mainly long (or short) answers were dropped: Spearman beyond 0.5, or a decile's share beyond 3 times the
    overall share."""
    correlation = text.number(summary.get("score_length_spearman"))
    _, overall = _deciles(summary)
    reasons = length_reasons(summary)
    if reasons:
        return Check(
            "attention",
            "This may be a length filter",
            _sentence("; ".join(reasons))
            + " Compare with a random removal (selection.control: random) before you credit the method.",
        )
    if correlation is None and not overall:
        return Check("unknown", "Length", "Whether the scores follow the length of the answers could not be checked.")
    known = "not known" if correlation is None else f"{correlation:+.2f}"
    words = f"Spearman correlation of score and answer length: {known}"
    if overall:
        words += f"; no tenth of the lengths lost more than {DECILE_EXCESS:.0f} times the overall share"
    return Check("ok", "No sign of a mere length filter", words + ".")


def _deciles(summary: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], float | None]:
    """The deciles that have rows, and the share that was dropped of all."""
    deciles = [decile for decile in summary.get("length_deciles") or [] if decile["rows"]]
    return deciles, share_table.share(deciles, "dropped", "rows")


def length_reasons(summary: Mapping[str, Any]) -> list[str]:
    """What shows that mainly long (or short) answers were dropped; empty if nothing does."""
    correlation = text.number(summary.get("score_length_spearman"))
    deciles, overall = _deciles(summary)
    excess = [decile for decile in deciles if overall and decile["dropped"] / decile["rows"] > DECILE_EXCESS * overall]
    reasons = []
    if correlation is not None and abs(correlation) > STRONG_CORRELATION:
        which = "longer" if correlation > 0 else "shorter"
        reasons.append(f"{which} answers get higher scores (Spearman correlation {correlation:+.2f})")
    for decile in excess:
        reasons.append(
            f"of the answers with {text.count(decile['low'])} to {text.count(decile['high'])} tokens "
            f"{text.share(decile['dropped'], decile['rows'])} went "
            f"({text.count(decile['dropped'])} of {text.count(decile['rows'])}), "
            f"against {text.share(overall)} overall"
        )
    return reasons


def overlaps(deciles: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """The expected share of the dropped rows that a random removal of the same size would also drop.

    First: at random. Second: at random within each length decile; the closer to 1, the more the length explains.
    None when nothing was dropped.
    """
    rows, dropped = sum(d["rows"] for d in deciles), sum(d["dropped"] for d in deciles)
    if not rows or not dropped:
        return None
    matched = sum(d["dropped"] ** 2 / d["rows"] for d in deciles if d["rows"])
    return dropped / rows, matched / dropped


def accounted(counts: Mapping[str, Any]) -> Check:
    """Whether every row is accounted for."""
    total = counts.get("rows_in", 0)
    parts = [counts.get(name, 0) for name in ("kept", "dropped", "quarantined")]
    sum_of = " + ".join(text.count(part) for part in parts)
    failed = counts.get("failed", 0)
    if failed and sum(parts) + failed == total:
        return Check(
            "attention",
            "The result is incomplete",
            f"{text.count(failed)} of {text.count(total)} rows are in no output, as their workers failed. The same "
            "command tries them again, and cuts everything anew.",
        )
    if sum(parts) == total:
        return Check(
            "ok",
            "Every row is accounted for",
            f"{text.count(total)} in = {sum_of} (kept + dropped + quarantined).",
        )
    return Check(
        "attention",
        "Rows are missing",
        f"{text.count(total)} in, but kept + dropped + quarantined is {sum_of}.",
    )


def _amount(counts: Mapping[str, Any]) -> Check:
    dropped = counts.get("dropped", 0)
    scored = counts.get("kept", 0) + dropped
    if not scored:
        return Check("attention", "Nothing was scored", "There is no row with a score, so there is nothing to judge.")
    said = f"{text.share(dropped, scored)} of the scored samples"
    if dropped > scored / 2:
        return Check("attention", "More than half is gone", f"The cut drops {said}; such a cut is rarely meant.")
    if not dropped:
        return Check(
            "unknown",
            "Nothing was dropped",
            "No sample scores beyond the cut; look at the histogram and the cut.",
        )
    return Check("ok", "A minority was dropped", f"The cut drops {said}.")


def quarantined(counts: Mapping[str, Any]) -> Check:
    """Whether many rows could not be read or scored."""
    total, rows = counts.get("rows_in", 0), counts.get("quarantined", 0)
    if not rows:
        return Check("ok", "Every row could be read and scored", "Nothing is in quarantine.")
    state: Literal["ok", "attention"] = "attention" if rows > NOTABLE_SHARE * total else "ok"
    title = "Many rows are in quarantine" if state == "attention" else "Few rows are in quarantine"
    return Check(
        state,
        title,
        f"{text.count(rows)} ({text.share(rows, total)}) could not be read or scored.",
    )


def truncated(counts: Mapping[str, Any], job: Mapping[str, Any]) -> Check:
    """Whether the model saw only a part of many conversations."""
    rows, scored = counts.get("truncated", 0), counts.get("kept", 0) + counts.get("dropped", 0)
    if not rows:
        return Check("ok", "No sample was cut short", "The model read every scored conversation whole.")
    state: Literal["ok", "attention"] = "attention" if rows > NOTABLE_SHARE * scored else "ok"
    limit = f" at {text.count(job['max_tokens'])} tokens" if text.number(job.get("max_tokens")) else ""
    words = f"{text.count(rows)} ({text.share(rows, scored)}) were cut{limit}; the model did not see the rest."
    return Check(state, f"{'Many' if state == 'attention' else 'Few'} samples were cut short", words)


def _ties(summary: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the cut splits equal scores. Only a cut of a given number of rows can; a threshold or a draw cannot."""
    rule = (summary.get("job") or {}).get("selection") or {}
    if rule.get("threshold") is not None or rule.get("control") is not None:
        return
    at_cut = (summary.get("selection") or {}).get("at_cut") or 0
    dropped = (summary.get("counts") or {}).get("dropped", 0)
    if at_cut > max(1, NOTABLE_SHARE * dropped):
        yield Check(
            "attention" if at_cut > 10 else "ok",
            "Scores are tied at the cut",
            f"At least {text.count(at_cut)} samples score exactly the cut; "
            "where not all of them went, the order of the corpus decided among them, not the risk.",
        )


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."
