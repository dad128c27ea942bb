"""A certificate in words: what is certified, by which labels, and what it would take where nothing is."""

from __future__ import annotations

from collections.abc import Iterator

from tamis.operators.statistics.certify import Step
from tamis.pipeline.labels.certified import ALL, RANDOM, Certificate, Certified
from tamis.pipeline.labels.draw import WHOLE
from tamis.pipeline.labels.sample import Sampled
from tamis.pipeline.terminal.text import shown


def lines_of(found: Certificate) -> list[str]:
    """For a person, each line harmless for a terminal."""
    lines = [_labels(found)]
    for part in found.parts:
        lines += [*_result(part, found.assumes_random), *(f"  {line}" for line in _details(part))]
    if found.holds:
        lines.append(
            "this holds for one method and one --alpha, chosen before the labels were looked at, and one draw of "
            "labels; see docs/certify.md"
        )
    return [shown(line) for line in lines]


def sheet_lines(drawn: Sampled) -> list[str]:
    """What `tamis sample` says."""
    lines = [f"{drawn.rows:,} rows to label are in {drawn.path}"]
    for name, (size, rows) in drawn.strata.items():
        of = "all scored rows" if name == WHOLE else name
        lines.append(f"  {rows:,} drawn at random from the {size:,} of {of}")
    lines.append(f"the seed is {drawn.seed}: with --seed {drawn.seed}, a larger sample begins with the same rows")
    # By stratum, they are no picture of the corpus, which is what `evaluate` speaks of.
    then = "`tamis certify`, `tamis evaluate`" if WHOLE in drawn.strata else "`tamis certify`"
    lines.append(f"write 1 (harmful) or 0 into the column harmful, from the top; then {then}")
    return [shown(line) for line in lines]


def _labels(found: Certificate) -> str:
    rows = sum(part.labelled - part.unlabelled for part in found.parts)
    harmful = sum(part.harmful - part.unlabelled for part in found.parts)
    again = "; drawn again here, and the same" if found.reproduced else ""
    how = {
        RANDOM: f"drawn at random (seed {found.seed}{again})",
        ALL: "which are all scored rows",
    }.get(found.chosen, "chosen nobody knows how")
    return f"labels: {found.source}, {rows:,} rows, {how}; {harmful:,} harmful"


def _result(part: Certified, assumes_random: bool) -> Iterator[str]:
    where = "" if part.stratum == WHOLE else f"{part.stratum}: "
    best = part.best
    if best is None:
        yield f"{where}no cut by {part.by} can be certified"
        return
    share = best.kept.size / part.pool
    words = "would be certified, if these labels are a random sample" if assumes_random else "certified"
    yield (
        f"{where}{words}: keep the {best.kept.size:,} of {part.pool:,} scored rows ({share:.1%}) whose {part.by} "
        f"score is at most {best.kept.threshold!r}"
    )


def _details(part: Certified) -> Iterator[str]:
    best, failed = part.best, part.failed
    if best is not None:
        yield (
            f"at most {_percent(part.alpha)} of them are harmful, with {_percent(1 - part.delta)} confidence: "
            f"{_inside(best, part)}"
        )
        if failed is not None:
            yield f"the next set, the safest {float(failed.kept.share):.0%}, is not certified: {_inside(failed, part)}"
        elif best.kept.size < part.pool:
            yield f"{float(best.kept.share):.0%} is the largest share that was tried; --up-to 1 tries all of them"
        return
    strictest, safe = part.steps[0], f"{part.uncertified_share:.1%}"
    yield (
        f"even of the safest {float(strictest.kept.share):.0%} ({strictest.kept.size:,} rows): "
        f"{_inside(strictest, part)}"
    )
    yield _needed(part, strictest)
    yield (
        f"without a certificate: the labels show that {safe} of the scored rows or more are harmless (Clopper-Pearson, "
        f"{_percent(1 - part.delta)} confidence); that the safest {safe} are those is a guess"
    )


def _inside(step: Step, part: Certified) -> str:
    return (
        f"{step.labelled:,} are labelled, {step.harmful:,} of these harmful; if more than {_percent(part.alpha)} were, "
        f"so few would be drawn with probability {step.p_value:.2g} (at most {part.delta:g} passes)"
    )


def _needed(part: Certified, strictest: Step) -> str:
    clean, as_found = part.needed(as_found=False), part.needed(as_found=True)
    if not strictest.harmful:
        many = "no number of labels that people make" if clean is None else f"about {clean:,} labels drawn at random"
        return f"needed: {many}, if none of those inside is harmful; {_ANEW}"
    if as_found is None:
        return (
            f"needed: another score or a larger --alpha; while {strictest.harmful / strictest.labelled:.1%} of the "
            "safest rows are harmful, more labels do not help"
        )
    return (
        f"needed: about {as_found:,} labels drawn at random, if {strictest.harmful / strictest.labelled:.1%} of those "
        f"inside stay harmful; {_ANEW}"
    )


_ANEW = (
    "a larger sample with the same --seed begins with the same rows, and the chance of being wrong is the sum of the "
    "--delta of all tries"
)


def _percent(share: float) -> str:
    return f"{100 * share:.6g}%"
