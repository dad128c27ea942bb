"""What the page says of the test of the filter: the verdict, and each figure with a sentence on how to read it.

Drawn from the summary's key "trust" (see `Trust` in summary.py). Any part of it may be missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tamis.operators.generation.refusals import MARKERS
from tamis.operators.methods.request_side import MISSED
from tamis.pipeline.report import prose, text
from tamis.pipeline.report.verdict import CARE, NO, SOUND, finding

STATES: dict[str, str] = {NO: "attention", CARE: "care", SOUND: "ok"}

TESTS = (
    (
        "AUROC",
        "How often an unsafe reference that the method has not seen scores above a row that it has not seen either: "
        "each method was fitted without a fifth of the rows and scored that fifth, for all fifths. 0.5 is chance, 1 is "
        "perfect; in brackets is the 95 % interval. A method whose interval reaches 0.5 must not decide a cut.",
    ),
    (
        "Length alone",
        "The same for the number of response tokens instead of the score: a method that is no better is a length "
        "filter.",
    ),
    (
        "Equal length",
        "Only pairs whose answers differ by at most 10 % in length: above 0.5, the method knows more than the length.",
    ),
    (
        "Spearman, length out",
        "Rank correlation of the score with being unsafe after the length is taken out of both (before that in "
        "brackets): if little is left, the score is the length.",
    ),
)
AGAINST = (
    "Rows of the corpus are what the cut has to tell apart, so that line decides; harmful rows among them make it look "
    "worse than it is. Safe references are the same requests, refused."
)
LENGTHS = (
    "Spearman correlation of the score with the length of the answer, and what is left: the share of the scores' order "
    "that the length does not explain (100 %: the length says nothing of the score; 0 %: the score is the length)."
)
PAIRS = (
    "Methods that find the same harm rank alike (Spearman near 1) and would drop the same rows; agreement that is gone "
    "when the length is taken out was agreement on length. Shared is the part of one method's drops, by its own exact "
    "cut, that the other would drop, too; a random draw of this size shares {}."
)
REFUSING = (
    "Answers that open with a refusal ({}). A harmful request that is refused teaches a model safety: where dropped/ "
    "has a larger share of them than the corpus, the cut takes such rows away, and can leave a model worse off than no "
    "cut. The request is not looked at, so refusals of harmless requests count, too."
)
DEMONSTRATIONS = (
    "Safety demonstrations are the refusing answers whose request looks harmful: the state at the last token of the "
    "prompt (block {block}) scores above that of {missed:.0%} of the {unsafe} unsafe references' own requests. They "
    "should fall no more often than all rows do. Of {corpus} requests drawn from the corpus, {above} are above it: "
    "about that share of the refusals of harmless requests is counted wrongly. References' requests score above those "
    "of the corpus in {auroc} of pairs."
)
NO_DEMONSTRATIONS = "Safety demonstrations, refusals of requests that look harmful, could not be told from these: {}."


def view(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of filter_test.html and of the verdict at the head; None for a run of an earlier tamis."""
    figures = summary.get("trust")
    if not figures:
        return None
    titles = {str(method.get("name")): method.get("title") for method in summary.get("methods") or []}

    def title(name: Any) -> str:
        return str(titles.get(str(name)) or prose.method_name(str(name)))

    tests = list(figures.get("tests") or [])
    agreement = figures.get("agreement") or {}
    pairs = [_pair(pair, title) for pair in agreement.get("pairs") or []]
    told = figures.get("demonstrations") or {}
    refusing = _refusing(figures.get("refusing"), summary.get("counts") or {})
    demonstrations = _refusing(None if "kept" not in told else told, summary.get("counts") or {})
    return {
        "verdict": _verdict(figures.get("verdict") or {}),
        "tests": [_test(test, title) for test in tests if "untested" not in test],
        "untested": [(title(test["method"]), test["untested"]) for test in tests if "untested" in test],
        "readings": TESTS,
        "against": AGAINST,
        "lengths": [
            {"method": title(row["method"]), "spearman": _signed(row["spearman"]), "left": text.share(row["left"])}
            for row in agreement.get("lengths") or []
        ],
        "lengths_reading": LENGTHS,
        "pairs": pairs,
        "pairs_reading": PAIRS.format(pairs[0]["by_chance"]) if pairs else "",
        "refusing": refusing,
        "refusing_reading": REFUSING.format(", ".join(MARKERS)),
        "demonstrations": demonstrations,
        "demonstrations_reading": _demonstrations(told),
    }


def _verdict(found: Mapping[str, Any]) -> dict[str, Any] | None:
    if not found.get("verdict"):
        return None
    said = str(found["verdict"])
    reasons = [_sentence(str(reason)) for reason in found.get("reasons") or []]
    return {"said": _sentence(said), "state": STATES.get(said, "care"), "reasons": reasons}


def _test(test: Mapping[str, Any], title: Any) -> dict[str, Any]:
    borrowed = f" of {title(test['borrowed'])}" if test.get("borrowed") else ""
    where = ", in the run that made the artifact" if test.get("of_artifact") else ""
    side = "safe references" if test["against"] == "safe" else "rows of the corpus"
    others = f"{text.count(test['others'])} {side}{where}"
    return {
        "method": title(test["method"]),
        "rows": f"{text.count(test['unsafe'])} unsafe references{borrowed} against {others}",
        "auroc": _with_interval(test["auroc"]),
        "length": _with_interval(test["length"]) + ("" if test["longer"] else "\nshorter ones first"),
        "equal": "too few pairs" if test["equal_length"] is None else _with_interval(test["equal_length"]),
        "says": finding(test),
        "partial": f"{_signed(test['partial_spearman'])} ({_signed(test['spearman'])})",
    }


def _pair(pair: Mapping[str, Any], title: Any) -> dict[str, Any]:
    return {
        "methods": " and ".join(title(name) for name in pair["methods"]),
        "spearman": _signed(pair["spearman"]),
        "partial": _signed(pair["partial_spearman"]),
        "both": text.count(pair["both"]),
        "dropped": text.count(pair["dropped"]),
        "share": text.share(pair["both"], pair["dropped"]),
        "jaccard": text.UNKNOWN if pair["jaccard"] is None else f"{pair['jaccard']:.2f}",
        "by_chance": text.share(pair["by_chance"]),
    }


def _refusing(refusing: Mapping[str, Any] | None, counts: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(where, refusing answers, rows) of the corpus, kept and dropped; none where they were not counted."""
    if refusing is None:
        return []
    parts = [(text.whole(refusing.get(name)), text.whole(counts.get(name))) for name in ("kept", "dropped")]
    corpus = (sum(part[0] for part in parts), sum(part[1] for part in parts))
    return [(name, *part) for name, part in zip(("corpus", "kept", "dropped"), (corpus, *parts), strict=True)]


def _demonstrations(told: Mapping[str, Any]) -> str:
    """How to read the figure, or why there is none; empty for a run of an earlier tamis."""
    if told.get("missing"):
        return NO_DEMONSTRATIONS.format(told["missing"])
    if "kept" not in told:
        return ""
    shares = {name: text.share(told[name]) for name in ("above", "auroc")}
    sizes = {name: text.count(told[name]) for name in ("unsafe", "corpus")}
    return DEMONSTRATIONS.format(block=told["block"], missed=MISSED, **shares, **sizes)


def _with_interval(figure: Mapping[str, Any]) -> str:
    """On two lines, which a narrow column keeps as they are."""
    return f"{figure['value']:.3f}\n({figure['low']:.3f}–{figure['high']:.3f})"


def _signed(value: Any) -> str:
    known = text.number(value)
    return text.UNKNOWN if known is None else f"{known:+.2f}"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
