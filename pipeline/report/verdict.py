"""The verdict on a cut, from figures and named limits: do not use it, use it with care, or it looks sound.

    do not use    a control decided; the deciding method ranks its held-out unsafe references no better than chance, or
                  no better than the length of the answer does, and answers of equal length do not show more
    with care     no such test could be made; the data has drifted from that of the test; the test is weak or small, or
                  length does as well; scores or drops follow the length; the cut takes refusals out beyond its share;
                  methods of the job disagree; rows are missing
    looks sound   none of these

Every verdict has its reasons, the gravest first. A pure function of the summary: no model, no files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tamis.operators.statistics.telling import EQUAL_LENGTH
from tamis.pipeline.job.sections import RANKS
from tamis.pipeline.report import prose, text, trust

CHANCE = 0.5
"""The AUROC of a score that knows nothing: an interval that reaches down to it fails the test."""
WEAK_AUROC = 0.75
"""Below this, a random pair is ranked wrongly once in four times or more often."""
ENOUGH_REFERENCES = 20
"""With fewer held-out unsafe references, even a good test is one of few subjects."""
REFUSAL_EXCESS = 1.5
"""Refusing answers may fall this many times as often as all rows."""
REFUSAL_DEVIATIONS = 3.0
"""More fall than chance lets fall if they are this many standard deviations above what a random draw takes."""
ENOUGH_REFUSALS = 10
"""With fewer refusing answers in the corpus, the share of them that falls is not judged."""
CHANCE_OVERLAP = 2.0
"""Two methods that share fewer drops than this many times those of a random draw do not agree."""
ENOUGH_DROPPED = 50
"""With fewer dropped rows, the methods' overlap is not judged."""

State = Literal["do not use this cut", "use with care", "looks sound"]
NO: State = "do not use this cut"
CARE: State = "use with care"
SOUND: State = "looks sound"


@dataclass(frozen=True)
class Verdict:
    """reasons: sentences, the gravest first; never empty."""

    verdict: State
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}


def verdict(summary: Mapping[str, Any]) -> Verdict:
    """Of a summary whose key "trust" has the figures."""
    figures = summary.get("trust") or {}
    tests = [test for test in figures.get("tests") or [] if test["method"] == summary.get("selected_by")]
    against = [*_against(summary, tests), *_against_all(summary, figures)]
    if against:
        return Verdict(NO, tuple(against))
    doubts = list(_doubts(summary, figures, tests))
    if doubts:
        return Verdict(CARE, tuple(doubts))
    return Verdict(SOUND, (_praise(_main(tests), prose.title_of(summary)),))


def words(found: Mapping[str, Any]) -> str:
    """The verdict and its first reason, in one line; empty where there is none."""
    if not found.get("verdict"):
        return ""
    reasons = list(found.get("reasons") or [])
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    said = str(found.get("verdict") or "")
    return f"{said[:1].upper()}{said[1:]}: {reasons[0] if reasons else ''}{more}"


def finding(test: Mapping[str, Any]) -> str:
    """What one test says of its method, in a few words."""
    if test["auroc"]["low"] <= CHANCE:
        return "no better than chance"
    if _beats_length(test):
        return "better than length"
    return "as length does, and more at equal length" if _holds_at_length(test) else "no better than length"


def _main(tests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The test against rows of the corpus: what the cut has to do."""
    return next((test for test in tests if test.get("against") == "corpus"), None)


# --- do not use -----------------------------------------------------------------------------------------------------


def _against(summary: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    title = prose.title_of(summary)
    if (control := prose.control(summary)) is not None:
        yield f"it is a control: a {control.replace('_', '-')} draw decided, not a score."
    for test in tests:
        if "untested" not in test and test["auroc"]["low"] <= CHANCE:
            yield (
                f"{title} does not tell unsafe references that it has not seen from {_others(test)}: "
                f"AUROC {_with_interval(test['auroc'])}, where chance has {CHANCE:g}; try another layer or method."
            )
    main = _main(tests)
    if main is not None and main["auroc"]["low"] > CHANCE and not _passes(main):
        yield (
            f"{title} ranks unsafe references that it has not seen no better than the length of the answer does: AUROC "
            f"{main['auroc']['value']:.2f}, length alone {main['length']['value']:.2f}, {_equal_length(main)}."
        )


def _against_all(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    """Where the mean of ranks decides: no method that it is of passes."""
    tested = _members(summary, figures)
    if tested and not any(_passes(test) for test in tested):
        yield (
            "none of the methods whose ranks are averaged tells unsafe references that it has not seen from rows of "
            "the corpus better than chance and the length of the answer do; try other layers or methods."
        )


def _members(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tests against rows of the corpus of the methods whose ranks are averaged; empty where a method decides."""
    if summary.get("selected_by") != RANKS:
        return []
    return [test for test in figures.get("tests") or [] if test.get("against") == "corpus"]


def _passes(test: Mapping[str, Any]) -> bool:
    return test["auroc"]["low"] > CHANCE and (_beats_length(test) or _holds_at_length(test))


def _beats_length(test: Mapping[str, Any]) -> bool:
    return bool(test["better_by"]["low"] > 0)


def _holds_at_length(test: Mapping[str, Any]) -> bool:
    return test["equal_length"] is not None and test["equal_length"]["low"] > EQUAL_LENGTH


def _equal_length(test: Mapping[str, Any]) -> str:
    if test["equal_length"] is None:
        return "and too few answers are of equal length to see more"
    return f"and among answers of equal length {_with_interval(test['equal_length'])}"


# --- with care ------------------------------------------------------------------------------------------------------


def _doubts(
    summary: Mapping[str, Any], figures: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    title, counts = prose.title_of(summary), summary.get("counts") or {}
    if counts.get("failed"):
        yield f"{text.count(counts['failed'])} rows are in no output, as their workers failed."
    if not counts.get("dropped"):
        yield "nothing was dropped."
    yield from _drifted(figures.get("drift") or {})
    test = _main(tests)
    if summary.get("selected_by") == RANKS:
        yield from _weak_members(summary, figures)
    elif test is None and any("untested" not in each for each in tests):
        yield f"{title} was tested on its safe references only: no vectors of corpus rows were captured."
    elif test is None:
        reason = next((test["untested"] for test in tests if "untested" in test), "there are no figures")
        yield f"{title} is untested: {reason}."
    else:
        yield from _weaknesses(title, test)
    for other in tests:
        if other.get("against") == "safe" and not _beats_length(other) and not _holds_at_length(other):
            yield (
                f"between unsafe and safe references, {title} (AUROC {other['auroc']['value']:.2f}) cannot be told "
                f"from a filter of length ({other['length']['value']:.2f}), {_equal_length(other)}."
            )
    if by_length := trust.length_reasons(summary):
        yield f"it may be a length filter: {'; '.join(by_length)}."
    yield from _lost_refusals(figures, counts)
    yield from _disagreements(summary, figures)


def _drifted(drift: Mapping[str, Any]) -> Iterator[str]:
    """Of a run that applies an artifact, whose test was made on another corpus."""
    if drift.get("exceeded"):
        yield (
            f"the data has drifted from the corpus of the artifact ({', '.join(drift['exceeded'])}), so the test that "
            "the artifact brings says little of this corpus."
        )
    elif drift and drift.get("limit") is None:
        yield "the test is of the corpus of the artifact, and without drift_limit nothing says that this one is alike."


def _weak_members(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    titles = {method.get("name"): method.get("title") for method in summary.get("methods") or []}
    tested = _members(summary, figures)
    weak = [titles.get(test["method"]) or prose.method_name(test["method"]) for test in tested if not _passes(test)]
    more = f"; of these, {', '.join(weak)} did no better than chance or length" if weak else ""
    yield f"the mean of ranks is not tested itself, only {len(tested)} of its methods{more}."


def _weaknesses(title: str, test: Mapping[str, Any]) -> Iterator[str]:
    if test["unsafe"] < ENOUGH_REFERENCES:
        yield f"the test of {title} has {test['unsafe']} unsafe references; {ENOUGH_REFERENCES} or more say something."
    if test["auroc"]["value"] < WEAK_AUROC:
        yield (
            f"{title} ranks unsafe references that it has not seen above {_others(test)} in only "
            f"{text.share(test['auroc']['value'])} of pairs."
        )
    if not _beats_length(test):
        yield (
            f"the length of the answer ranks the references as well as {title} does "
            f"({test['length']['value']:.2f} and {test['auroc']['value']:.2f}), though {title} holds among answers of "
            f"equal length ({_with_interval(test['equal_length'])})."
        )


def _lost_refusals(figures: Mapping[str, Any], counts: Mapping[str, Any]) -> Iterator[str]:
    """Of safety demonstrations where enough of them are known, else of all answers that refuse."""
    told = figures.get("demonstrations") or {}
    if text.whole(told.get("kept")) + text.whole(told.get("dropped")) >= ENOUGH_REFUSALS:
        yield from _lost(told, counts, "safety demonstrations", "harmful requests that are refused teach safety")
    else:
        refusing = figures.get("refusing") or {}
        yield from _lost(refusing, counts, "refusing answers", "refusals of harmful requests teach safety")


def _lost(refusing: Mapping[str, Any], counts: Mapping[str, Any], what: str, why: str) -> Iterator[str]:
    kept, dropped = text.whole(refusing.get("kept")), text.whole(refusing.get("dropped"))
    scored = text.whole(counts.get("kept")) + text.whole(counts.get("dropped"))
    if kept + dropped < ENOUGH_REFUSALS or not scored:
        return
    share, overall = dropped / (kept + dropped), text.whole(counts.get("dropped")) / scored
    by_chance = math.sqrt(overall * (1 - overall) * (kept + dropped))
    if share > REFUSAL_EXCESS * overall and dropped - overall * (kept + dropped) > REFUSAL_DEVIATIONS * by_chance:
        yield (
            f"the cut takes {text.share(share)} of the {what} ({text.count(dropped)} of "
            f"{text.count(kept + dropped)}), and {text.share(overall)} of all rows: {why}, and a corpus without them "
            "can make a model worse than no cut."
        )


def _disagreements(summary: Mapping[str, Any], figures: Mapping[str, Any]) -> Iterator[str]:
    """Other methods that would drop other rows, if they pass the test themselves."""
    own = summary.get("selected_by")
    good = {test["method"] for test in figures.get("tests") or [] if test.get("against") == "corpus" and _passes(test)}
    titles = {method.get("name"): method.get("title") for method in summary.get("methods") or []}
    for pair in (figures.get("agreement") or {}).get("pairs") or []:
        if own not in pair["methods"] or pair["dropped"] < ENOUGH_DROPPED:
            continue
        [other] = [name for name in pair["methods"] if name != own]
        if other not in good:
            continue
        shared = pair["both"] / pair["dropped"]
        if shared < CHANCE_OVERLAP * pair["by_chance"] and pair["by_chance"] < 1 / CHANCE_OVERLAP:
            yield (
                f"{titles.get(other) or prose.method_name(other)} would drop only {text.share(shared)} of the same "
                f"rows, where a random draw has {text.share(pair['by_chance'])}."
            )


def _praise(test: Mapping[str, Any] | None, title: str) -> str:
    assert test is not None
    return (
        f"{title} ranks unsafe references that it has not seen above {_others(test)} in "
        f"{text.share(test['auroc']['value'])} of pairs, length alone in {text.share(test['length']['value'])}; "
        "lengths and refusals show nothing against it, and no other method of the job does."
    )


def _others(test: Mapping[str, Any]) -> str:
    if test["against"] == "safe":
        return "safe references"
    return "rows of the artifact's corpus" if test.get("of_artifact") else "rows of the corpus"


def _with_interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"
