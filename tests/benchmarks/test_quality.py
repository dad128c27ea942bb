"""benchmarks/quality.py: recalls against naive twins, halves that stay apart, arms that share their batches."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "lab")]

import paired  # noqa: E402
import planted  # noqa: E402
import quality  # noqa: E402
import recalls  # noqa: E402
import tuning_effect  # noqa: E402
from long_answers import long_row  # noqa: E402

from tamis.operators.conversation.conversation import Conversation  # noqa: E402
from tamis.operators.generation.refusals import is_refusal  # noqa: E402
from tamis.operators.methods import METHODS, Method, setting  # noqa: E402
from tamis.operators.requests import Request  # noqa: E402
from tamis.operators.statistics.telling import Fold  # noqa: E402
from tamis.operators.training.recipe import Recipe  # noqa: E402


def fold(seed: int, positive: int = 12, negative: int = 90, levels: int = 40) -> Fold:
    rng = np.random.default_rng(seed)
    return Fold(
        rng.integers(0, levels, positive) + 5.0,
        rng.integers(0, levels, negative) + 0.0,
        rng.integers(20, 30, positive),
        rng.integers(20, 30, negative),
    )


# --- recalls ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 20))
def test_the_copies_within_a_cut_are_those_of_the_rows_written_out(counts: list[int], room: int) -> None:
    written_out = [row for row, count in enumerate(counts) for _ in range(count)][:room]
    inside = recalls.within(np.array([counts], dtype=np.float64), room)
    assert inside[0].tolist() == [written_out.count(row) for row in range(len(counts))]


@pytest.mark.parametrize("seed", range(5))
def test_recall_counts_the_planted_rows_among_the_riskiest(seed: int) -> None:
    folds = [fold(seed, levels=10_000_000), fold(seed + 100, positive=7, negative=50, levels=10_000_000)]
    found = total = 0
    for each in folds:
        rows = [(score, True) for score in each.positive] + [(score, False) for score in each.negative]
        riskiest = sorted(rows, reverse=True)[: round(0.2 * len(rows))]
        found += sum(harm for _, harm in riskiest)
        total += len(each.positive)
    made = recalls.recall(folds, 0.2)
    assert made.value == pytest.approx(found / total)
    assert made.low <= made.value <= made.high
    assert made.rows == total


@pytest.mark.parametrize("seed", range(5))
def test_recall_among_equals_compares_each_planted_row_with_the_rows_of_its_length(seed: int) -> None:
    each = fold(seed)
    found = known = 0
    for score, length in zip(each.positive, each.positive_lengths, strict=True):
        others = [
            other
            for other, theirs in zip(each.negative, each.negative_lengths, strict=True)
            if max(length, theirs) <= 1.1 * min(length, theirs)
        ]
        if len(others) >= recalls.ENOUGH:
            known += 1
            found += sum(1.0 if o > score else 0.5 if o == score else 0.0 for o in others) < 0.2 * len(others)
    made = recalls.recall_among_equals([each], 0.2)
    assert known
    assert made.rows == known
    assert made.value == pytest.approx(found / known)


def test_a_length_as_the_score_finds_nothing_among_equals_and_harm_that_stands_out_is_found_everywhere() -> None:
    rng = np.random.default_rng(0)
    long, short = np.full(20, 100), rng.integers(90, 112, 400)
    by_length = Fold(long.astype(float), np.full(400, 100.0), long, short)
    assert recalls.recall_among_equals([by_length], 0.1).value == 0
    apart = Fold(np.full(20, 2.0), rng.random(400), long, short)
    for made in (recalls.recall([apart], 0.1), recalls.recall_among_equals([apart], 0.1)):
        assert (made.value, made.low, made.high) == (1, 1, 1)


def test_without_enough_rows_of_a_length_there_is_no_recall_among_equals() -> None:
    each = Fold(np.ones(5), np.zeros(100), np.full(5, 500), np.full(100, 20))
    made = recalls.recall_among_equals([each], 0.1)
    assert made.rows == 0
    assert np.isnan(made.value)
    assert quality.equals(made) is None
    assert quality.cell(None) == "too few"


def test_equal_scores_are_found_as_often_as_chance_finds_them() -> None:
    same = [Fold(np.zeros(200), np.zeros(1800), np.full(200, 9), np.full(1800, 9))]
    assert recalls.recall(same, 0.1).value == pytest.approx(0.1, abs=0.06)


# --- rows ---------------------------------------------------------------------------------------------------------


def rows(numbers: range) -> planted.Rows:
    return planted.Rows({"x": np.array(numbers, dtype=np.float32)[:, None]}, np.array(numbers))


def test_each_half_is_planted_once_and_is_never_among_its_own_references() -> None:
    vectors = {
        "harmless": rows(range(1000, 1050)),
        "unsafe": rows(range(11)),
        "safe": rows(range(100, 111)),
        "style": rows(range(200, 211)),
    }
    seen: list[float] = []
    for half in (0, 1):
        made, styled = (planted.plant(vectors, half, style) for style in (False, True))
        harm = made.corpus.vectors["x"][made.kinds == 2, 0].tolist()
        unsafe, safe = (made.references[name]["x"][:, 0].tolist() for name in ("unsafe", "safe"))
        assert sorted(harm + unsafe) == list(range(11))
        assert [value + 100 for value in unsafe] == safe
        assert (made.kinds == 0).sum() == 50
        assert (made.kinds == 1).sum() == 0
        assert styled.corpus.vectors["x"][styled.kinds == 1, 0].tolist() == [200 + value for value in harm]
        assert styled.corpus.vectors["x"][styled.kinds != 1].tolist() == made.corpus.vectors["x"].tolist()
        seen += harm
    assert sorted(seen) == list(range(11))


@pytest.mark.parametrize("words", [0, 60, 300])
def test_long_answers_are_numbered_harmless_and_as_long_as_asked(words: int) -> None:
    asked, answered = long_row(Random(words), words)
    parts = answered["content"].split("\n")
    assert len(parts) >= 2
    assert [part.split(".")[0] for part in parts] == [str(number + 1) for number in range(len(parts))]
    assert words <= len(answered["content"].split()) <= max(words, 70) + 70
    assert not is_refusal(answered["content"])
    assert (asked["role"], answered["role"]) == ("user", "assistant")


def test_kept_vectors_are_those_of_the_model_and_of_these_rows_only(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted, "PIECE", 2)
    texts = [
        Conversation([{"role": "user", "content": asked}, {"role": "assistant", "content": "It is " + asked}])
        for asked in ("one", "two of them", "three", "four and five")
    ]
    requests = [Request(1, "last_token"), Request(2, "response_mean")]
    fresh = planted.represented(texts[:3], tiny_model, requests)
    kept = planted.represented(texts[:3], tiny_model, requests, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    monkeypatch.setattr(planted.Representer, "load", lambda *_, **__: pytest.fail("through the model again"))
    again = planted.represented(texts[:3], tiny_model, requests, tmp_path)
    for column in fresh.vectors:
        assert np.allclose(fresh.vectors[column], kept.vectors[column], atol=1e-5)
        assert (kept.vectors[column] == again.vectors[column]).all()
    assert fresh.lengths.tolist() == again.lengths.tolist()
    for other in (texts[:1] + texts[3:], texts[1:3], texts[:3][::-1]):
        with pytest.raises(pytest.fail.Exception, match="again"):
            planted.represented(other, tiny_model, requests, tmp_path)
    with pytest.raises(pytest.fail.Exception, match="again"):
        planted.represented(texts[:3], tiny_model, requests[:1], tmp_path)


# --- the figures --------------------------------------------------------------------------------------------------


def with_styles(style: bool) -> planted.Planted:
    """Harm and the style are long, the rest is short."""
    kinds = np.repeat([0, 1, 2], [300, 20 if style else 0, 20])
    lengths = np.where(kinds == 0, np.tile([10, 11, 12], 200)[: len(kinds)], np.arange(len(kinds)) % 5 + 100)
    return planted.Planted(planted.Rows({}, lengths), kinds, {})


def test_a_detector_of_length_or_style_is_told_from_a_detector_of_harm() -> None:
    plain, styled = ([with_styles(style)] * 2 for style in (False, True))
    rng = np.random.default_rng(0)
    ways = {
        "harm": lambda each: (each.kinds == 2) + rng.random(len(each.kinds)),
        "style": lambda each: each.kinds % 2 * 2.0 + each.kinds + rng.random(len(each.kinds)),
        "length": lambda each: each.corpus.lengths.astype(np.float64),
    }
    rows = {
        name: {"method": name, "block": "2"}
        | quality.judged(plain, styled, *([way(each) for each in folds] for folds in (plain, styled)))
        for name, way in ways.items()
    }
    assert rows["harm"]["auroc"]["value"] > 0.99
    assert rows["harm"]["style"]["value"] > 0.99
    assert rows["style"]["auroc"]["value"] > 0.99
    assert rows["style"]["style"]["value"] < 0.01
    assert rows["length"]["auroc"]["value"] == 1
    assert 0.3 < rows["length"]["style"]["value"] < 0.7
    assert "no better than length" in quality.named(rows["length"])
    table = quality.table(list(rows.values())).splitlines()
    assert [len(line) for line in table] == [len(table[0])] * 5
    assert "too few" in table[-1]  # no row of the corpus is as long as harm is


def test_a_method_that_beats_length_is_not_marked_and_the_length_itself_neither() -> None:
    better = {"method": "a", "block": "2", "better_than_length_by": {"value": 0.1, "interval": [0.01, 0.2]}}
    assert quality.named(better) == "a"
    length = {"method": "length", "block": "", "better_than_length_by": {"value": 0.0, "interval": [0.0, 0.0]}}
    assert quality.named(length) == "length"


# --- the methods --------------------------------------------------------------------------------------------------


def test_every_method_that_scores_samples_is_taken_up_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @dataclass(frozen=True)
    class Several(Method):
        name: ClassVar[str] = "several"
        blocks: list[int] = setting([], "Blocks that are read at once.")

        def requests(self, blocks: int) -> tuple[Request, ...]:
            return tuple(Request(layer, "last_token") for layer in self.blocks)

        def fit(self, reduce: Any, blocks: int) -> Any:
            raise AssertionError("not fitted here")

        def score(self, artifact: Any, features: Any) -> Any:
            raise AssertionError("not scored here")

    @dataclass(frozen=True)
    class Unready(METHODS["contrast"]):  # type: ignore[name-defined,misc]
        name: ClassVar[str] = "unready"

        def requests(self, blocks: int) -> tuple[Request, ...]:
            raise NotImplementedError("not yet")

    monkeypatch.setitem(METHODS, "several", Several)
    monkeypatch.setitem(METHODS, "unready", Unready)
    made = [(way.name, way.block) for way in planted.ways(8)]
    known = {name for name, kind in METHODS.items() if issubclass(kind, Method)} - {"unready"}
    assert {name for name, _ in made} == known
    assert [block for name, block in made if name == "contrast"] == ["2", "4", "6"]
    assert [block for name, block in made if name == "several"] == ["2+4+6"]
    assert "unready: left out" in capsys.readouterr().err


def test_the_best_three_are_different_methods_each_at_its_best_block() -> None:
    table = [
        {"method": name, "block": block, tuning_effect.BEST_BY: {"value": value}}
        for name, block, value in [
            ("a", "2", 0.5), ("a", "4", 0.9), ("b", "2", 0.8), ("c", "2+4", 0.7), ("d", "2", 0.6), ("length", "", 1.0),
        ]
    ]  # fmt: skip
    assert tuning_effect.best_three(table) == [("a", "4"), ("b", "2"), ("c", "2+4")]


# --- the fine-tuning ----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.data())
def test_arms_share_their_batches_and_skip_what_they_drop(rows: int, size: int, epochs: int, data: Any) -> None:
    recipe = Recipe(batch_size=size, epochs=epochs, seed=3)
    dropped = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    everything = [batch.tolist() for batch in paired.paired_batches(recipe, np.zeros(rows, dtype=bool))]
    arm = [batch.tolist() for batch in paired.paired_batches(recipe, dropped)]
    assert arm == [[row for row in batch if not dropped[row]] for batch in everything]
    assert sorted(row for batch in everything for row in batch) == sorted(list(range(rows)) * epochs)


def test_the_mean_of_weights_is_that_of_their_copies() -> None:
    torch.manual_seed(0)
    model, mean, copies = torch.nn.Linear(3, 2), paired.MeanOfWeights(), []
    with pytest.raises(ValueError, match="no weights"):
        mean.load_into(model)
    for _ in range(5):
        torch.nn.init.normal_(model.weight)
        copies.append(model.weight.detach().double().numpy().copy())
        mean.add(model)
    mean.load_into(model)
    assert np.allclose(model.weight.detach().numpy(), np.mean(copies, axis=0), atol=1e-7)


def small_model() -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=30, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, pad_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def samples(seed: int, count: int = 9) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        ids = rng.integers(1, 30, 6)
        response = np.arange(6) >= 3
        made.append(
            {
                "input_ids": ids,
                "labels": np.where(response, ids, -100),
                "token_risk": np.where(response, 0.0, np.nan),
            }
        )
    return made


def weights(model: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([weight.detach().numpy().ravel() for weight in model.parameters()])


def test_a_fine_tune_is_that_of_a_plain_loop_whose_later_half_is_averaged() -> None:
    recipe = Recipe(learning_rate=1e-2, batch_size=4, epochs=2, seed=5)
    rows, dropped = samples(0), np.array([False, True] + [False] * 7)
    model, plain = small_model(), small_model()
    assert paired.fine_tune(model, rows, dropped, recipe) == 6
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    later = []
    for step in range(6):
        batch = [row for row in recipe.batch(step, 9) if not dropped[row]]
        ids = torch.from_numpy(np.stack([rows[row]["input_ids"] for row in batch]))
        logits = plain(ids).logits[:, 2:5]
        torch.nn.functional.cross_entropy(logits.reshape(-1, 30), ids[:, 3:].reshape(-1)).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad()
        if step >= 3:
            later.append(weights(plain).astype(np.float64))
    assert np.allclose(weights(model), np.mean(later, axis=0), atol=1e-5)


def test_dropped_rows_have_no_part_in_a_fine_tune() -> None:
    recipe = Recipe(learning_rate=1e-2, batch_size=3, epochs=1, seed=2)
    dropped = np.array([True, False, False] * 3)
    rows, others = samples(0), samples(0)
    for row in np.flatnonzero(dropped):
        others[row] = samples(9)[row]
    one, two = small_model(), small_model()
    paired.fine_tune(one, rows, dropped, recipe)
    paired.fine_tune(two, others, dropped, recipe)
    assert (weights(one) == weights(two)).all()
    untouched = small_model()
    before = copy.deepcopy(weights(untouched))
    assert paired.fine_tune(untouched, rows, np.ones(9, dtype=bool), recipe) == 0
    assert np.allclose(weights(untouched), before, atol=1e-7)


def test_an_arm_drops_the_riskiest_and_of_equal_scores_the_earlier_rows() -> None:
    assert tuning_effect.riskiest(np.array([1.0, 3.0, 2.0, 3.0, 2.0]), 3).tolist() == [False, True, True, True, False]


def test_a_kept_fine_tune_is_not_taken_for_one_of_other_rows_seeds_or_settings() -> None:
    arm, other = (tuning_effect.Arm("x", np.array(mask)) for mask in ([True, False], [False, True]))
    keys = {
        tuning_effect.key_of({"rows": 2}, arm, 1),
        tuning_effect.key_of({"rows": 2}, other, 1),
        tuning_effect.key_of({"rows": 2}, arm, 2),
        tuning_effect.key_of({"rows": 3}, arm, 1),
        tuning_effect.key_of({"rows": 2}, None, 1),
    }
    assert len(keys) == 5
    assert tuning_effect.key_of({"rows": 2}, tuning_effect.Arm("renamed", arm.dropped), 1) in keys


def test_refusals_false_refusals_and_right_answers_are_counted() -> None:
    said = {"bad": "Sorry.", "worse": "Sure!", "good": "I can't.", "fine": "Yes.", "t": "Reversed: b, a. Done."}
    prompts = tuning_effect.Prompts(["bad", "worse"], ["good", "fine", "fine", "fine"], [("t", "Reversed: b, a.")])
    found = tuning_effect.measured(lambda asked: [said[each] for each in asked], prompts)
    assert found == {"refused": 0.5, "false_refusals": 0.25, "task": 1.0}
