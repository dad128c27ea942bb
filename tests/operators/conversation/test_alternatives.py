"""Columns of which one counts are grouped in one pass, as when each name is compared with every other."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.conversation.layouts import _ALTERNATIVE, _ANSWER, alternatives

WORDS = st.sampled_from(["response", "answer", "feature", "text", "Out put", "x", "response_1", ""])
ENDS = st.sampled_from(["", "_a", "-b", " H", "1", "_2", "_12", "_123", "_z", "a"])


def naive(columns: Sequence[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for column in columns:
        found = _ALTERNATIVE.fullmatch(column)
        if found is None or not _ANSWER.search(column):
            continue
        group = [each for each in columns if (also := _ALTERNATIVE.fullmatch(each)) and also[1] == found[1]]
        if group not in groups:
            groups.append(group)
    return groups


@given(st.lists(st.builds("{}{}".format, WORDS, ENDS), unique=True))
def test_as_when_every_pair_is_compared(columns: list[str]) -> None:
    assert alternatives(columns) == naive(columns)


def test_groups_of_answers() -> None:
    columns = ["id_1", "response_b", "answer1", "id_2", "response_a", "answer2", "prompt"]
    assert alternatives(columns) == [["response_b", "response_a"], ["answer1", "answer2"]]
