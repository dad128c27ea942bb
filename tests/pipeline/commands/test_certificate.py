"""What a certificate says: the numbers of the walk, and what it would take where nothing is certified."""

from __future__ import annotations

from fractions import Fraction

import pytest

from tamis.operators.statistics.certify import KeepSet, Step, fewest_labels
from tamis.pipeline.commands.certificate import lines_of, sheet_lines
from tamis.pipeline.labels.certified import RANDOM, UNKNOWN, Certificate, Certified
from tamis.pipeline.labels.sample import Sampled

STRICT = KeepSet(Fraction(15, 100), 0.1, 300)


def certificate(*steps: Step, chosen: str = RANDOM, stratum: str = "all", reproduced: bool = True) -> Certificate:
    part = Certified(stratum, "larf", 0.1, 0.1, 2_000, 400, 90, 0, steps)
    return Certificate((part,), chosen, "the file l.csv", 7, reproduced)


def test_what_is_certified_and_where_the_walk_ended() -> None:
    looser = KeepSet(Fraction(20, 100), float.fromhex("0x1.99999ap-3"), 401)
    found = lines_of(
        certificate(
            Step(STRICT, 60, 0, 0.001, True),
            Step(looser, 80, 2, 0.02, True),
            Step(KeepSet(Fraction(25, 100), 0.3, 500), 99, 9, 0.45, False),
        )
    )
    assert found[0] == (
        "labels: the file l.csv, 400 rows, drawn at random (seed 7; drawn again here, and the same); 90 harmful"
    )
    # The threshold is written so that it reads back as the very score.
    assert found[1] == (
        "certified: keep the 401 of 2,000 scored rows (20.1%) whose larf score is at most 0.20000000298023224"
    )
    assert "at most 10% of them are harmful, with 90% confidence: 80 are labelled, 2 of these harmful" in found[2]
    assert "the next set, the safest 25%, is not certified: 99 are labelled, 9 of these harmful" in found[3]
    assert found[4].startswith("this holds for one method and one --alpha")


def test_the_largest_share_that_was_tried_is_said() -> None:
    found = lines_of(certificate(Step(STRICT, 60, 0, 0.001, True)))
    assert found[3] == "  15% is the largest share that was tried; --up-to 1 tries all of them"


@pytest.mark.parametrize(
    ("labelled", "harmful", "said"),
    [
        (10, 0, f"about {-(-(fewest_labels(300, 0.1, 0.1) or 0) * 2_000 // 300)} labels drawn at random, if none of"),
        (30, 2, "labels drawn at random, if 6.7% of those inside stay harmful"),
        (30, 9, "needed: another score or a larger --alpha; while 30.0% of the safest rows are harmful"),
        (0, 0, "labels drawn at random, if none of those inside is harmful"),
    ],
)
def test_what_it_would_take(labelled: int, harmful: int, said: str) -> None:
    lines = lines_of(certificate(Step(STRICT, labelled, harmful, 0.3, False), stratum="asks=no"))
    assert lines[1] == "asks=no: no cut by larf can be certified"
    assert said in lines[3]
    assert "without a certificate" in lines[4]
    assert len(lines) == 5


def test_a_draw_that_was_not_found_again_is_not_called_the_same() -> None:
    step = Step(STRICT, 60, 0, 0.001, True)
    assert "drawn at random (seed 7); 90 harmful" in lines_of(certificate(step, reproduced=False))[0]


def test_labels_of_unknown_origin_are_called_that() -> None:
    found = certificate(Step(STRICT, 60, 0, 0.001, True), chosen=UNKNOWN, reproduced=False)
    lines = lines_of(found)
    assert "chosen nobody knows how" in lines[0]
    assert lines[1].startswith("would be certified, if these labels are a random sample: keep the 300 of 2,000")
    assert found.to_dict()["parts"][0]["assumes_random"] is True
    assert certificate(Step(STRICT, 60, 0, 0.001, True)).to_dict()["parts"][0]["assumes_random"] is False


def test_a_sheet_is_named_with_its_strata() -> None:
    lines = sheet_lines(Sampled("/x/s\x1b.csv", 71, {"asks=yes": (90, 50), "asks=no": (2_000, 50)}))
    assert lines[0] == "100 rows to label are in /x/s\\x1b.csv"
    assert lines[1] == "  50 drawn at random from the 90 of asks=yes"
    assert lines[4].endswith("then `tamis certify`")
    assert sheet_lines(Sampled("/x/s.csv", 71, {"all": (90, 50)}))[3].endswith("`tamis certify`, `tamis evaluate`")
    assert lines[3] == "the seed is 71: with --seed 71, a larger sample begins with the same rows"
