"""Can this mask be trusted? The numbers of a run that masks tokens, explained in plain language.

The mask should follow the risk of the content. The checks look for simpler explanations: the tokens are the first ones,
they come from one source, or the references learned nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from tamis.pipeline.report import text, token_charts, trust
from tamis.pipeline.report.trust import Check

FIRST = 5
"""How many tokens at the start of an answer decide between refusal and compliance."""

MOST, TWICE = 0.5, 2.0
"""A group explains the mask if its share of discarded tokens is above MOST, and above TWICE its share of all tokens."""

LEARNED = 0.01
"""A training whose loss fell by less than this share cannot have made two models different."""

SETTLED = 0.05
"""A loss that still falls by more than this share in its last tenth has not settled."""

SPELLED_OUT = 3
"""How many successful trainings are listed one by one; the others are counted."""


def checks(summary: Mapping[str, Any]) -> list[Check]:
    """All checks; those that need attention come first."""
    counts = {name: text.whole(value) for name, value in (summary.get("counts") or {}).items()}
    tokens = summary.get("tokens") or {}
    found = [
        trust.accounted(counts),
        _amount(tokens),
        first_tokens(summary.get("positions") or []),
        *_one_source(summary.get("sources") or []),
        _training(summary.get("references") or []),
        *_alike(summary.get("risk_histogram") or {}),
        *_emptied(summary.get("sample_shares") or {}, counts),
        *_ties(tokens),
        *_rounds(summary.get("rounds") or []),
        trust.quarantined(counts),
        trust.truncated(counts, summary.get("job") or {}),
    ]
    return trust.most_urgent_first(found)


def first_tokens(positions: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the mask is little more than a mask of the first tokens of answers."""
    counted = [{key: text.whole(row.get(key)) for key in ("high", "tokens", "discarded")} for row in positions]
    tokens, discarded = (sum(row[key] for row in counted) for key in ("tokens", "discarded"))
    head = [row for row in counted if row["high"] < FIRST]
    if not head or not discarded:
        return Check("unknown", "First tokens", "Whether the mask follows the place in the answer is not known.")
    of_all = sum(row["tokens"] for row in head) / (tokens or 1)
    of_discarded = sum(row["discarded"] for row in head) / discarded
    said = (
        f"The first {max(row['high'] for row in head) + 1} tokens of the answers hold {text.share(of_discarded)} of "
        f"the discarded tokens and {text.share(of_all)} of all response tokens."
    )
    if of_discarded > MOST and of_discarded > TWICE * of_all:
        return Check(
            "attention",
            "This is mostly a mask of first tokens",
            said + " Masking every answer's first tokens may do as much; compare with that before you credit the "
            "method.",
        )
    return Check(
        "ok", "No mere mask of first tokens", said + " Some excess is expected: they decide whether an answer complies."
    )


def _amount(tokens: Mapping[str, Any]) -> Check:
    """Whether the requested share of tokens was masked."""
    response, discarded = text.whole(tokens.get("response")), text.whole(tokens.get("discarded"))
    requested = text.number(tokens.get("requested"))
    if not response:
        return Check("attention", "Nothing was scored", "There is no response token with a risk.")
    said = f"{text.share(discarded, response)} of the response tokens are discarded"
    if requested is None:
        return Check("unknown", "Share discarded", f"{said}; what was asked for is not known.")
    said += f"; the job asked for {text.share(requested)}."
    if not discarded:
        return Check("attention", "Nothing was masked", said)
    if discarded < requested * response and tokens.get("scope") == "sample":
        return Check("ok", "The share that was asked for", said + " Shares of short answers are rounded down.")
    if abs(discarded - requested * response) > max(1.0, trust.NOTABLE_SHARE * requested * response):
        return Check("attention", "Not the share that was asked for", said)
    return Check("ok", "The share that was asked for", said)


def _one_source(sources: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """Whether one source has far more of the mask than its size explains. With a single source, there is no check."""
    counted = [
        (str(row.get("source")), text.whole(row.get("tokens")), text.whole(row.get("discarded"))) for row in sources
    ]
    tokens, discarded = sum(row[1] for row in counted), sum(row[2] for row in counted)
    if len(counted) < 2 or not discarded:
        return
    name, its_tokens, its_discarded = max(counted, key=lambda row: row[2])
    said = (
        f"{text.one_line(name)} holds {text.share(its_discarded, discarded)} of the discarded tokens and "
        f"{text.share(its_tokens, tokens)} of all response tokens."
    )
    if its_discarded > MOST * discarded and its_discarded / discarded > TWICE * its_tokens / (tokens or 1):
        yield Check(
            "attention",
            "Most of the mask falls on one source",
            said + " That is right if the risk is there, and wrong if the mask follows its language, format or style: "
            "read the examples.",
        )
    else:
        yield Check("ok", "The mask is not that of one source", said)


def _training(references: Sequence[Mapping[str, Any]]) -> Check:
    """Whether the loss of the references fell in training, and had settled."""
    flat, fine, untold = [], [], []
    for reference in references:
        name = str(reference.get("name") or "reference")
        losses = [loss for _, loss in token_charts.losses(reference)]
        if len(losses) < 2:
            known = "was given and not trained here" if reference.get("how") == "given" else "has no training curve"
            untold.append(f"The {name} reference {known}.")
            continue
        stretch = max(1, len(losses) // 10)
        first, last = _mean(losses[:stretch]), _mean(losses[-stretch:])
        over = f" (means of {stretch} steps)" if stretch > 1 else ""
        line = f"Loss of the {name} reference: {first:.4g} at first, {last:.4g} at last{over}"
        if last > first * (1 - LEARNED):
            flat.append(line + ", so it learned next to nothing.")
        elif len(losses) >= 20 and last < _mean(losses[-2 * stretch : -stretch]) * (1 - SETTLED):
            fine.append(line + "; it was still falling.")
        else:
            fine.append(line + ".")
    if len(fine) > SPELLED_OUT:
        fine = [*fine[:SPELLED_OUT], f"So did the loss of {len(fine) - SPELLED_OUT} others fall."]
    words = " ".join([*flat, *fine, *untold]) or "There are no training curves."
    if flat:
        remedy = " Where the references are alike the risk is noise: raise toss.training.epochs or learning_rate."
        return Check("attention", "A reference learned next to nothing", words + remedy)
    return Check("ok", "The references learned", words) if fine else Check("unknown", "Training", words)


def _alike(histogram: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the references are the same model: then every token has the risk 0."""
    edges = [edge for edge in map(text.number, histogram.get("edges") or []) if edge is not None]
    if edges and max(edges) - min(edges) < 1e-6:
        words = f"Every risk is about {text.score(edges[0], 3)}: order and rounding chose the tokens."
        yield Check("attention", "The two references are alike", words)


def _emptied(shares: Mapping[str, Any], counts: Mapping[str, int]) -> Iterator[Check]:
    """Samples with no token left to learn, and samples that the mask does not touch."""
    if not shares:
        return
    emptied, untouched = text.whole(shares.get("all")), text.whole(shares.get("none"))
    scored = counts.get("kept", 0) + counts.get("dropped", 0)
    alone = f"{text.count(untouched)} samples ({text.share(untouched, scored)}) are not touched by the mask."
    if not emptied:
        yield Check("ok", "No sample is masked entirely", alone)
        return
    state: Literal["ok", "attention"] = "attention" if emptied > trust.NOTABLE_SHARE * scored else "ok"
    yield Check(
        state,
        f"{'Many' if state == 'attention' else 'Few'} samples are masked entirely",
        f"Of {text.count(emptied)} ({text.share(emptied, scored)}) every response token is discarded. {alone}",
    )


def _ties(tokens: Mapping[str, Any]) -> Iterator[Check]:
    """Whether the cut goes through equal risks: then the place in the corpus decides between tokens."""
    at_cut, discarded = text.whole(tokens.get("at_cut")), text.whole(tokens.get("discarded"))
    if text.number(tokens.get("cut")) is None or not discarded:
        return
    if at_cut > max(1, trust.NOTABLE_SHARE * discarded):
        yield Check(
            "attention" if at_cut > 10 else "ok",
            "Risks are tied at the cut",
            f"{text.count(at_cut)} tokens have exactly the risk of the cut; where not all of them went, the order of "
            "the corpus decided among them, not the risk.",
        )
    else:
        held = "1 token has" if at_cut == 1 else f"{text.count(at_cut)} tokens have"
        yield Check("ok", "No ties that matter", f"{held} exactly the risk of the cut.")


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> Iterator[Check]:
    """What the rounds of TOSS-Pro changed."""
    overlap = text.number(rounds[0].get("overlap")) if len(rounds) > 1 else None
    if overlap is not None:
        yield Check(
            "ok",
            "What the rounds changed",
            f"{text.share(overlap)} of the mask of the first round is also in the final one; the nearer to 100 %, the "
            "less the further rounds did.",
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
