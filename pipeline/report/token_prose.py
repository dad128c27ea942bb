"""The sentences that the page and the dataset card of a run that masks tokens share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.pipeline.report import prose, text

_RISK = (
    "{} (arXiv 2603.01185): the risk of a response token is its loss (cross-entropy, in nats) under the utility "
    "reference minus its loss under the harmful one. Both are fine-tunes of the same model, and each token is read "
    "with all that stands before it. Above 0 the harmful reference expects the token more than the utility reference "
    "does; the higher, the riskier to train on. Risks compare within this run only."
)
_MASK = (
    "The riskiest tokens are discarded: they stay in the input as context, but their labels are -100, so a training "
    "does not learn to say them. Prompt tokens are never scored and never learned."
)
_ROUNDS = (
    "TOSS-Pro works in rounds: the samples that hold the riskiest tokens join the harmful set, the harmful reference "
    "is trained anew from the base model, and all tokens are scored again. The last round decides."
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
    said = [_RISK.format(method(summary)), _MASK]
    return [*said, _ROUNDS] if summary.get("method") == "toss-pro" else said
