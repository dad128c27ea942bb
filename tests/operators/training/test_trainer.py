from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tamis.operators.methods.toss import discard_in_each, training_columns
from tamis.operators.training.trainer import (
    DISCARDED,
    Normalise,
    SelectiveCollator,
    curated_trainer,
    response_mean_loss,
    sample_mean_loss,
)

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLE = Path(__file__).parents[3] / "deploy" / "examples" / "finetune.py"
ROWS = 24
PAD = 5  # <|pad|> of the tokenizer in conftest


@pytest.fixture(scope="module")
def corpus(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a TOSS run leaves it: kept/ of two files, a fifth of each sample's tokens discarded."""
    folder = tmp_path_factory.mktemp("curated")
    (folder / "kept").mkdir()
    rng = np.random.default_rng(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for number in range(2):
        table = _table(tokenizer, rng, ROWS // 2, first=number * ROWS // 2)
        pq.write_table(table, folder / "kept" / f"{number:05d}.parquet")
    return folder


def _table(tokenizer: Any, rng: np.random.Generator, rows: int, first: int) -> pa.Table:
    messages, ids, starts = [], [], []
    for row in range(first, first + rows):
        chat = [
            {"role": "user", "content": f"Write letter {row} to my landlord."},
            {"role": "assistant", "content": "Sure, here is " + "the quick brown fox " * int(rng.integers(1, 6))},
        ]
        prompt = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True, tokenize=False)
        whole = tokenizer.apply_chat_template(chat, tokenize=False)
        messages.append(chat)
        ids.append(tokenizer.encode(whole, add_special_tokens=False))
        starts.append(len(tokenizer.encode(prompt, add_special_tokens=False)))
    lengths = np.array([len(row) for row in ids])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    answers = np.concatenate([[0], np.cumsum(lengths - starts)]).astype(np.int64)
    risk = rng.normal(size=answers[-1]).astype(np.float32)
    labels, spread, scored = training_columns(
        np.concatenate(ids), offsets, np.array(starts), lengths, np.arange(rows + 1), risk,
        discard_in_each(risk, answers, 0.2),
    )  # fmt: skip

    def lists(values: pa.Array) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)

    return pa.table(
        {
            "messages": messages,
            "topic": ["letters"] * rows,
            "input_ids": lists(pa.array(np.concatenate(ids), pa.int32())),
            "labels": lists(pa.array(labels, pa.int64())),
            "token_risk": lists(pa.array(spread, pa.float32(), mask=~scored)),
        }
    )


@pytest.fixture
def rows(corpus: Path, tmp_path: Path) -> Any:
    return datasets.load_dataset(
        "parquet", data_files=str(corpus / "kept" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    return TrainingArguments(**(settings(folder) | changes))


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "run"), "max_steps": 20, "per_device_train_batch_size": 4, "learning_rate": 1e-3,
        "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "use_cpu": True, "disable_tqdm": True, "seed": 0,
    }  # fmt: skip


def losses_of(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# --- batches ------------------------------------------------------------------------------------------------------


def test_collator_marks_and_pads() -> None:
    batch = SelectiveCollator(pad_token_id=9)(
        [
            {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, -100, 4], "token_risk": [None, None, 0.5, -1.0]},
            {"input_ids": [5, 6], "labels": [5, 6], "token_risk": [0.0, 0.0], "topic": "the rest is let pass"},
        ]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, DISCARDED, 4], [-100, 6, -100, -100]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"labels": [1, 2]}, "remove_unused_columns"),
        ({"labels": [1, 2], "token_risk": [None, 1.0]}, "without a risk"),
        ({"labels": [1], "token_risk": [1.0]}, "2 input_ids, 1 labels and 1 risks"),
    ],
)
def test_collator_refuses_what_is_not_of_a_run(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveCollator(0)([{"input_ids": [1, 2], **row}])


# --- losses -------------------------------------------------------------------------------------------------------


def naive(logits: np.ndarray, labels: np.ndarray, by_sample: bool) -> float:
    """One token at a time, in float64."""
    sums, responses, means = 0.0, 0, []
    for row, targets in zip(logits.astype(np.float64), labels, strict=True):
        own = []
        for scores, target in zip(row[:-1], targets[1:], strict=True):
            responses += target != -100
            if target >= 0:
                own.append(np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[target])
        sums += sum(own)
        means.append(sum(own) / len(own) if own else 0.0)
    return float(np.mean(means)) if by_sample else sums / max(responses, 1)


def batch_of(kept: float, discarded: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 11, (5, 9))
    chance = rng.random((5, 9))
    labels[chance >= kept] = DISCARDED
    labels[chance >= kept + discarded] = -100
    labels[4] = DISCARDED  # a sample that lost every token
    return torch.tensor(rng.normal(size=(5, 9, 11)) * 3, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize(("kept", "discarded"), [(0.5, 0.2), (0.9, 0.1), (0.0, 0.3), (0.0, 0.0), (0.1, 0.9)])
def test_losses_against_naive_twins(kept: float, discarded: float) -> None:
    logits, labels = batch_of(kept, discarded)
    for loss_of, by_sample in ((response_mean_loss, False), (sample_mean_loss, True)):
        leaf = logits.clone().requires_grad_()
        loss = loss_of({"logits": leaf}, labels)
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(
            naive(logits.numpy(), labels.numpy(), by_sample), rel=1e-5, abs=1e-7
        )
        loss.backward()
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()


def test_no_response_token_at_all() -> None:
    logits, labels = torch.zeros(2, 3, 4), torch.full((2, 3), -100)
    assert float(response_mean_loss({"logits": logits}, labels, torch.tensor(0))) == 0
    assert float(sample_mean_loss({"logits": logits}, labels)) == 0


def test_discarded_tokens_make_the_step_smaller() -> None:
    logits, labels = batch_of(0.9, 0.0)
    halved = labels.clone()
    halved[:, ::2] = torch.where(labels[:, ::2] >= 0, DISCARDED, labels[:, ::2])
    whole, half = (response_mean_loss({"logits": logits * 0}, each) for each in (labels, halved))
    kept = float((halved[:, 1:] >= 0).sum() / (labels[:, 1:] >= 0).sum())
    assert float(half) == pytest.approx(kept * float(whole), rel=1e-5)


# --- transformers' Trainer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["responses", "samples"])
def test_accumulated_batches_take_the_step_of_one_large_batch(
    normalise: Normalise, tiny_model: Path, rows: Any, tmp_path: Path
) -> None:
    rate = 0.05
    wanted = load(tiny_model).double()
    before = {name: value.clone() for name, value in wanted.state_dict().items()}
    batch = SelectiveCollator(PAD)([rows[place] for place in range(8)])
    logits = wanted(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    _float64_loss(logits, batch["labels"], normalise == "samples").backward()
    for size, accumulate in ((8, 1), (2, 4), (4, 2)):
        model = load(tiny_model)
        changes = {"max_steps": 1, "optim": "sgd", "learning_rate": rate, "max_grad_norm": 0.0}
        args = arguments(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulate, **changes)
        trainer = curated_trainer(model, args, rows.select(range(8)), PAD, normalise)
        trainer.train()
        for name, parameter in wanted.named_parameters():
            assert parameter.grad is not None
            step = model.get_parameter(name).detach().double() - before[name]
            torch.testing.assert_close(step, -rate * parameter.grad, rtol=1e-3, atol=2e-6)


def _float64_loss(logits: torch.Tensor, labels: torch.Tensor, by_sample: bool) -> torch.Tensor:
    targets = labels[:, 1:]
    kept = targets >= 0
    chosen = logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    losses = torch.where(kept, -chosen, 0.0)
    if by_sample:
        return (losses.sum(1) / kept.sum(1)).mean()
    return losses.sum() / (targets != -100).sum()


@pytest.mark.parametrize("normalise", ["responses", "samples"])
def test_twenty_steps_with_our_loss(normalise: Normalise, tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    trainer = curated_trainer(load(tiny_model), arguments(tmp_path), rows, PAD, normalise)
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 20
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_twenty_steps_with_plain_labels(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    """Nothing of ours: the columns are what transformers expects, and the rest is let pass."""
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(tiny_model), label_pad_token_id=-100)
    trainer = Trainer(load(tiny_model), arguments(tmp_path), train_dataset=rows, data_collator=collator)
    trainer.train()
    losses = losses_of(trainer)
    assert len(losses) == 20
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


class Fed(TrainerCallback):
    """Notes the rows that reach the model: (input_ids, labels), padding taken off."""

    def __init__(self) -> None:
        self.rows: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _model: Any, _positional: Any, named: dict[str, Any]) -> None:
        for ids, labels, mask in zip(named["input_ids"], named["labels"], named["attention_mask"], strict=True):
            real = mask.bool()
            assert (labels[~real] == -100).all()
            self.rows.append((tuple(ids[real].tolist()), tuple(labels[real].tolist())))


def test_sft_trainer_is_fed_exactly_our_labels(tiny_model: Path, rows: Any, tmp_path: Path) -> None:
    """TRL knows a tokenised corpus by its input_ids and leaves its labels alone, `messages` or not."""
    from trl import SFTConfig, SFTTrainer

    fed = Fed()
    trainer = SFTTrainer(
        load(tiny_model),
        SFTConfig(**settings(tmp_path), max_length=None),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        callbacks=[fed],
    )
    trainer.train()
    assert len(losses_of(trainer)) == 20
    assert np.isfinite(losses_of(trainer)).all()
    written = {(tuple(row["input_ids"]), tuple(row["labels"])) for row in rows}
    assert len(fed.rows) == 80
    assert set(fed.rows) == written


# --- without the rest of tamis ------------------------------------------------------------------------------------


def test_ray_is_not_imported(tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; import tamis.operators.training.trainer"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_writes_an_adapter(
    tiny_model: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    specification = importlib.util.spec_from_file_location("finetune", EXAMPLE)
    assert specification is not None
    assert specification.loader is not None
    example = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(example)
    words = ["--model", str(tiny_model), "--corpus", str(corpus), "--output", str(tmp_path / "adapter")]
    with torch.random.fork_rng():
        example.main([*words, "--max-steps", "2", "--batch-size", "2", "--accumulate", "2", "--checkpointing"])
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert sorted(written["target_modules"]) == ["q_proj", "v_proj"]
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(load(tiny_model), tmp_path / "adapter")
    moved = [value.abs().max() for name, value in adapted.named_parameters() if "lora_B" in name]
    assert len(moved) == 8
    assert min(moved) > 0


def test_the_end_of_a_turn_is_learned_and_counted() -> None:
    row = {"input_ids": [1, 5, 6, 2, 7], "labels": [-100, 5, -100, 2, -100], "token_risk": [None, 0.1, 2.0, None, None]}
    batch = SelectiveCollator(0)([row])
    assert batch["labels"].tolist() == [[-100, 5, -101, 2, -100]]
    logits = torch.zeros(1, 5, 10)
    assert float(response_mean_loss({"logits": logits}, batch["labels"])) == pytest.approx(2 * np.log(10) / 3)
    stray = {**row, "labels": [1, 5, -100, 2, -100]}
    with pytest.raises(ValueError, match="without a risk"):
        SelectiveCollator(0)([stray])
