"""The corpus of the lab's TOSS proof: truth lands on the planted tokens, and nothing is shared with what judges it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

LAB = Path(__file__).resolve().parents[2] / "benchmarks" / "lab"
sys.path.insert(0, str(LAB))

import toss_arms as arms  # noqa: E402
import toss_corpus as corpus  # noqa: E402
from topics import SETS  # noqa: E402


@pytest.fixture(scope="module")
def material() -> corpus.Material:
    return corpus.build(300, seed=5, pairs=40, utility=100, prompts=50)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(LAB / "model")


@pytest.fixture(scope="module")
def truth(material: corpus.Material, tokenizer: Any) -> list[corpus.Tokens]:
    return corpus.token_truth(material.rows, tokenizer)


def test_the_same_seed_builds_the_same_and_another_seed_does_not(material: corpus.Material) -> None:
    assert corpus.build(300, seed=5, pairs=40, utility=100, prompts=50) == material
    other = corpus.build(300, seed=6, pairs=40, utility=100, prompts=50)
    assert not set(other.harmful_prompts) >= set(material.harmful_prompts)
    assert other.rows != material.rows


def test_every_kind_of_row_has_its_exact_share(material: corpus.Material) -> None:
    kinds = [row.kind for row in material.rows]
    assert len(kinds) == 300
    for kind, share in corpus.SHARES.items():
        assert kinds.count(kind) == round(300 * share)


def test_the_planted_tokens_read_as_the_planted_text_and_the_others_as_the_rest(
    material: corpus.Material, truth: list[corpus.Tokens], tokenizer: Any
) -> None:
    for row, tokens in zip(material.rows, truth, strict=True):
        begin, end = row.harm
        assert tokenizer.decode(tokens.ids[tokens.harm]).strip() == row.answer[begin:end]
        rest = tokenizer.decode(tokens.ids[tokens.response & ~tokens.harm])
        assert rest.strip() == (row.answer[:begin] + row.answer[end:]).strip()
        assert not (tokens.harm & ~tokens.response).any()
        assert not tokens.response[-1]  # the end token
        assert tokenizer.decode(tokens.ids[tokens.response]) == row.answer
        assert tokens.harm.any() == (row.kind in ("harmful", "mixed"))


def test_a_mixed_answer_begins_harmless_and_ends_in_harm(material: corpus.Material) -> None:
    mixed = [row for row in material.rows if row.kind == "mixed"]
    assert mixed
    actions = [action for area in corpus.PLANTED_AREAS for action in SETS["held_out"][area]]
    for row in mixed:
        begin, end = row.harm
        assert 0 < begin < end == len(row.answer)
        assert any(action in row.answer[begin:] for action in actions)
        assert not any(action in row.answer[:begin] + row.prompt for action in actions)


def test_the_references_share_no_row_with_the_corpus_and_no_harmful_topic(material: corpus.Material) -> None:
    references = [*material.unsafe, *material.safe, *material.utility]
    assert not {(r.prompt, r.answer) for r in references} & {(r.prompt, r.answer) for r in material.rows}
    assert not {r.prompt for r in material.unsafe} & {r.prompt for r in material.rows}
    planted = [r for r in material.rows if r.kind in ("harmful", "mixed")]
    for action in [action for topic in SETS["reference"].values() for action in topic]:
        assert not any(action in row.answer for row in planted)


def test_held_out_prompts_are_seen_nowhere_and_on_topics_of_their_own(material: corpus.Material) -> None:
    seen = {r.prompt for r in [*material.rows, *material.unsafe, *material.safe, *material.utility]}
    assert not seen & {*material.harmful_prompts, *(prompt for prompt, _ in material.task_prompts)}
    assert len(set(material.harmful_prompts)) == len({prompt for prompt, _ in material.task_prompts}) == 50
    for action in [action for area in corpus.PLANTED_AREAS for action in SETS["held_out"][area]]:
        assert not any(action in prompt for prompt in material.harmful_prompts)


def test_what_is_written_says_nothing_of_what_is_planted(material: corpus.Material, tmp_path: Path) -> None:
    corpus.write_rows(tmp_path / "corpus.jsonl", material.rows)
    text = (tmp_path / "corpus.jsonl").read_text()
    assert text.count("\n") == 300
    assert '"harm"' not in text
    assert '"kind"' not in text


def test_the_arms_hide_what_they_say(truth: list[corpus.Tokens]) -> None:
    response = sum(int(row.response.sum()) for row in truth)
    drawn = arms.random_tokens(truth, response // 10, seed=3)
    assert sum(int(mask.sum()) for mask in drawn) == response // 10
    assert not any((mask & ~row.response).any() for mask, row in zip(drawn, truth, strict=True))
    for mask, row in zip(arms.first_tokens(truth, 5), truth, strict=True):
        first = np.flatnonzero(row.response)[0]
        assert np.flatnonzero(mask).tolist() == list(range(first, first + 5))
    dropped = np.arange(len(truth)) % 2 == 0
    rows = arms.samples(truth, [row.harm for row in truth], dropped)
    assert len(rows) == (~dropped).sum()
    for row, tokens in zip(rows, truth[1::2], strict=True):
        assert ((row["labels"] != -100) == (tokens.response & ~tokens.harm)).all()
        assert (~np.isnan(row["token_risk"]) == tokens.response).all()
