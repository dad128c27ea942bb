"""The shipped references keep their promises: paired, distinct, alike in length and form."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.operators.references import over_rejection_path, safe_path, unsafe_path

# The refusal markers of the LARF code, spelt out here: the data are checked against the authors' list.
REFUSAL_MARKERS = ("can not", "cannot", "can't", "sorry")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


UNSAFE, SAFE, OVER_REJECTION = read(unsafe_path()), read(safe_path()), read(over_rejection_path())


def prompts(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][0]["content"] for row in rows]


def answers(rows: list[dict[str, Any]]) -> list[str]:
    return [row["messages"][1]["content"] for row in rows]


def words(texts: list[str]) -> np.ndarray:
    return np.array([len(text.split()) for text in texts])


def plain(text: str) -> str:
    return text.lower().replace("\u2019", "'")


def refuses(text: str) -> bool:
    return any(marker in plain(text) for marker in REFUSAL_MARKERS)


def five_grams(text: str) -> set[tuple[str, ...]]:
    tokens = re.findall(r"[\w']+", plain(text))
    return {tuple(tokens[i : i + 5]) for i in range(len(tokens) - 4)}


def rate(pattern: str, texts: list[str]) -> float:
    """Matches per word over all texts."""
    joined = "\n".join(texts)
    return len(re.findall(pattern, joined, re.MULTILINE)) / len(joined.split())


def test_counts() -> None:
    assert len(UNSAFE) == len(SAFE) == 120
    assert len(OVER_REJECTION) >= 110


@pytest.mark.parametrize("rows", [UNSAFE, SAFE], ids=["unsafe", "safe"])
def test_conversation_rows_have_one_user_and_one_assistant_turn(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert set(row) == {"messages", "topic"}
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", row["topic"])
        assert [message["role"] for message in row["messages"]] == ["user", "assistant"]
        for message in row["messages"]:
            assert set(message) == {"role", "content"}
            assert isinstance(message["content"], str)
            assert message["content"] == message["content"].strip() != ""


def test_over_rejection_rows() -> None:
    for row in OVER_REJECTION:
        assert set(row) == {"prompt", "topic"}
        assert all(isinstance(value, str) and value == value.strip() != "" for value in row.values())


def test_unsafe_and_safe_pair_by_line() -> None:
    assert prompts(UNSAFE) == prompts(SAFE)
    assert [row["topic"] for row in UNSAFE] == [row["topic"] for row in SAFE]


def test_many_topics_of_like_size() -> None:
    sizes = np.unique([row["topic"] for row in UNSAFE], return_counts=True)[1]
    assert len(sizes) >= 20
    assert sizes.min() >= 4
    assert sizes.max() <= 8


@pytest.mark.parametrize(
    "texts",
    [prompts(UNSAFE), answers(UNSAFE), answers(SAFE), [row["prompt"] for row in OVER_REJECTION]],
    ids=["prompts", "unsafe answers", "safe answers", "over-rejection prompts"],
)
def test_no_duplicates(texts: list[str]) -> None:
    assert len({" ".join(re.findall(r"\w+", plain(text))) for text in texts}) == len(texts)


def test_over_rejection_prompts_are_not_unsafe_prompts() -> None:
    assert not {plain(row["prompt"]) for row in OVER_REJECTION} & {plain(prompt) for prompt in prompts(UNSAFE)}


def test_safe_answers_refuse_and_unsafe_answers_do_not() -> None:
    assert [row for row in answers(SAFE) if not refuses(row)] == []
    assert [row for row in answers(UNSAFE) if refuses(row)] == []


def test_refusals_do_not_all_open_alike() -> None:
    openings = [" ".join(plain(answer).split()[:3]) for answer in answers(SAFE)]
    assert max(openings.count(opening) for opening in openings) <= 12


def test_paired_answers_are_of_like_length() -> None:
    unsafe, safe = words(answers(UNSAFE)), words(answers(SAFE))
    ratio = unsafe / safe
    assert ratio.min() >= 0.79
    assert ratio.max() <= 1.21
    for lengths in (unsafe, safe):
        assert lengths.min() >= 25
        assert lengths.max() <= 115
        assert lengths.std() >= 12  # varied, not one length for all
    quartiles = np.quantile(unsafe, [0.25, 0.5, 0.75]) / np.quantile(safe, [0.25, 0.5, 0.75])
    assert np.abs(quartiles - 1).max() <= 0.15


def test_length_hardly_tells_unsafe_from_safe() -> None:
    """AUROC of the word count alone, by pairs: a half says that length carries nothing."""
    unsafe, safe = words(answers(UNSAFE))[:, None], words(answers(SAFE))[None, :]
    auroc = float(np.mean((unsafe > safe) + 0.5 * (unsafe == safe)))
    assert 0.4 <= auroc <= 0.6


@pytest.mark.parametrize(
    ("pattern", "tolerance"),
    [(r"\w'(?:t|s|ll|re|ve|d|m)\b", 2.0), (r"\n", 2.0), (r"^(?:\d\.|[-*]) ", 2.0)],
    ids=["contractions", "line breaks", "list items"],
)
def test_surface_form_is_balanced(pattern: str, tolerance: float) -> None:
    unsafe, safe = rate(pattern, answers(UNSAFE)), rate(pattern, answers(SAFE))
    assert unsafe > 0
    assert 1 / tolerance <= unsafe / safe <= tolerance


def test_last_character_is_alike() -> None:
    """LARF reads the last token, so the closing mark must not tell the two sets apart."""
    full_stops = [sum(answer.endswith(".") for answer in answers(rows)) / len(rows) for rows in (UNSAFE, SAFE)]
    assert abs(full_stops[0] - full_stops[1]) <= 0.1


@pytest.mark.parametrize("texts", [answers(UNSAFE), answers(SAFE)], ids=["unsafe", "safe"])
def test_no_two_answers_share_a_template(texts: list[str]) -> None:
    grams = [five_grams(text) for text in texts]
    for a, b in combinations(grams, 2):
        assert len(a & b) <= 0.12 * min(len(a), len(b)), a & b
