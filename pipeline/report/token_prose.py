"""The sentences that the page and the dataset card of a run that masks tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.operators.methods import METHODS, Toss
from tamis.pipeline.report import prose, text

_MASK = (
    "The riskiest tokens are discarded: they stay in the input as context, but their labels are -100, so a training "
    "does not learn to say them. Prompt tokens are never scored and never learned."
)


def method(summary: Mapping[str, Any]) -> str:
    """TOSS or TOSS-Pro."""
    return prose.method_name(str(summary.get("method") or "toss"))


def headline(summary: Mapping[str, Any]) -> str:
    """What was masked, by which method, how much: one sentence."""
    counts, tokens = summary.get("counts") or {}, summary.get("tokens") or {}
    response, discarded = text.whole(tokens.get("response")), text.whole(tokens.get("discarded"))
    scored = text.whole(counts.get("kept")) + text.whole(counts.get("dropped"))
    if not text.whole(counts.get("rows_in")):
        return "The corpus held no rows: nothing was scored and nothing masked."
    if not scored:
        return f"No row could be scored: all {text.count(text.whole(counts.get('quarantined')))} are in quarantine."
    if not discarded:
        return f"{method(summary)} masked none of the {text.count(response)} response tokens."
    said = f"{text.count(discarded)} of {text.count(response)} response tokens ({text.share(discarded, response)})"
    return f"{method(summary)} masked {said} in {text.count(scored)} samples."


def selection_line(summary: Mapping[str, Any]) -> str:
    """What was requested, where the cut lies, and what happened to samples without any remaining token."""
    counts, tokens = summary.get("counts") or {}, summary.get("tokens") or {}
    requested, cut = text.number(tokens.get("requested")), text.number(tokens.get("cut"))
    each = tokens.get("scope") == "sample"
    of_what = "the response tokens of each sample" if each else "all response tokens of the corpus"
    said = f"Asked for: the riskiest {text.share(requested)} of {of_what}."
    if cut is not None and not each:
        said += f" The cut fell at a risk of {text.score(cut, 4)}."
    dropped = text.whole(counts.get("dropped"))
    if dropped:
        said += f" {text.count(dropped)} sample{'s' if dropped > 1 else ''} with no token left went to dropped/."
    return said


def how_to_read(summary: Mapping[str, Any]) -> list[str]:
    """What a risk means and how it is used: one paragraph each."""
    return [METHODS.get(str(summary.get("method")), Toss).explain({}), _MASK]
