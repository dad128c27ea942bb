"""Training equals a naive twin in float64; passes, workers and interruptions change nothing; what it writes loads."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load
from test_lm_head import HEADS
from test_losses import assert_alike, full_model, one_at_a_time, samples
from test_representations import CONFIGS, GROUPED, VOCABULARY, save
from torch.nn import functional
from transformers import LlamaConfig

from tamis.operators.forward.adapters import CONFIG_FILE, WEIGHTS_FILE
from tamis.operators.forward.losses import TokenLosses
from tamis.operators.training import sft
from tamis.operators.training.recipe import BETAS, Recipe, epoch_order
from tamis.operators.training.rows import TrainingRows, share
from tamis.operators.training.sft import Trainer, TrainingError

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS = {
    "llama": ["q_proj", "v_proj"],
    "phi3": ["qkv_proj"],
    "gpt_neox": ["query_key_value"],
    "gpt2": ["c_attn"],
    "mixtral": ["q_proj", "v_proj"],
    "soft_cap": ["q_proj", "v_proj"],
    "falcon": ["query_key_value"],
    "phi3_long": ["qkv_proj"],
}
BATCH, ROWS = 4, 10
FAST: dict[str, Any] = {"rank": 4, "alpha": 8, "learning_rate": 1e-2, "batch_size": BATCH, "epochs": 1}
IDS, RESPONSES = samples(ROWS, seed=3)
"""Of unlike lengths, with one to three turns each."""


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


def trainer_of(folder: Path, **changes: Any) -> Trainer:
    options = {name: changes.pop(name) for name in ("token_budget", "base_name") if name in changes}
    return Trainer.load(folder, Recipe(**{**FAST, **changes}), device="cpu", **options)


def rows_for(trainer: Trainer) -> TrainingRows:
    return TrainingRows.checked(IDS, RESPONSES, trainer.info)


def trained(folder: Path, **changes: Any) -> Trainer:
    trainer = trainer_of(folder, **changes)
    for _ in trainer.train(rows_for(trainer)):
        pass
    return trainer


class Twin:
    """peft's own model in float64, one sample at a time, all logits, torch's AdamW and clipping."""

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        files = trainer.adapter()
        settings = json.loads(files[CONFIG_FILE])
        config = peft.LoraConfig(
            r=settings["r"],
            lora_alpha=settings["lora_alpha"],
            target_modules=settings["target_modules"],
            fan_in_fan_out=settings["fan_in_fan_out"],
        )
        self.model = peft.get_peft_model(full_model(folder), config, autocast_adapter_dtype=False)
        peft.set_peft_model_state_dict(self.model, load(files[WEIGHTS_FILE]))
        self.model.double().eval()
        named = dict(self.model.base_model.model.named_parameters())
        self.weights = {name: named[name] for name in trainer.weights}
        self.recipe = trainer.recipe
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=self.recipe.learning_rate,
            betas=BETAS,
            weight_decay=self.recipe.weight_decay,
        )

    def step(self, batch: np.ndarray) -> tuple[float, float]:
        """The loss and the gradient's norm."""
        losses = []
        for row in batch:
            tokens = torch.from_numpy(IDS[row].astype(np.int64))
            logits = self.model(input_ids=tokens[None]).logits[0]
            for start, stop in RESPONSES[row]:
                losses += [functional.cross_entropy(logits[start - 1 : stop - 1], tokens[start:stop], reduction="none")]
        loss = torch.cat(losses).mean()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip)
        self.optimizer.step()
        return float(loss.detach()), float(norm)


def flat(weights: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([weight.detach().double().flatten() for weight in weights.values()]).numpy()


# --- the numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_three_steps_equal_those_of_the_naive_twin(name: str, tmp_path: Path) -> None:
    folder = save({**CONFIGS, **HEADS}[name], tmp_path)
    trainer = trainer_of(folder, weight_decay=0.1, token_budget=150)
    assert list(trainer.targets) == TARGETS[name]
    twin, start = Twin(folder, trainer), flat(trainer.weights)
    for step, point in enumerate(trainer.train(rows_for(trainer))):
        batch = trainer.recipe.batch(step, ROWS)
        loss, norm = twin.step(batch)
        np.testing.assert_allclose([point.loss, point.gradient_norm], [loss, norm], rtol=1e-3 if step else 1e-5)
        assert point.tokens == sum(stop - start for row in batch for start, stop in RESPONSES[row])
        assert (point.step, point.epoch) == (step + 1, 1)
        if step == 0:
            first = {key: trainer._optimizer.state[weight]["exp_avg"] for key, weight in trainer.weights.items()}
            expected = {key: twin.optimizer.state[weight]["exp_avg"] for key, weight in twin.weights.items()}
            np.testing.assert_allclose(flat(first), flat(expected), rtol=1e-3, atol=1e-6)
    assert trainer.step == 3
    moved, wanted = flat(trainer.weights) - start, flat(twin.weights) - start
    assert np.linalg.norm(moved - wanted) <= 1e-2 * np.linalg.norm(wanted)


def test_the_gradient_does_not_depend_on_micro_batches_or_on_chunks_of_the_head(llama: Path) -> None:
    batch = np.arange(ROWS)
    found = []
    for budget, chunk in ((1, 2**28), (150, 2**28), (10_000, 2**28), (10_000, 1)):
        trainer = trained(llama, token_budget=budget)
        trainer._chunk = max(1, min(trainer._chunk, chunk))
        found.append(trainer.gradient(rows_for(trainer), batch))
    for gradient, loss in found[1:]:
        torch.testing.assert_close(gradient, found[0][0], rtol=1e-2, atol=1e-3)
        assert loss == pytest.approx(found[0][1], rel=1e-3)


def test_two_workers_do_what_one_does(llama: Path) -> None:
    """Threads that meet at a barrier, in the place of processes."""
    alone = trained(llama)
    pair = [trainer_of(llama) for _ in range(2)]
    barrier = threading.Barrier(2, timeout=60)
    shared: dict[int, torch.Tensor] = {}

    def work(rank: int) -> None:
        def reduce(tensor: torch.Tensor) -> None:
            shared[rank] = tensor.clone()
            barrier.wait()
            tensor.copy_(shared[0] + shared[1])
            barrier.wait()

        for _ in pair[rank].train(rows_for(pair[rank]), rank=rank, workers=2, reduce=reduce):
            pass

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pair[0].state()[0] == pair[1].state()[0]
    np.testing.assert_allclose(
        [point.loss for point in pair[0].curve], [point.loss for point in alone.curve], rtol=1e-5
    )
    assert np.abs(flat(pair[0].weights) - flat(alone.weights)).max() <= 1e-5


def test_a_worker_without_rows_adds_nothing(llama: Path) -> None:
    trainer = trainer_of(llama)
    gradient, loss = trainer.gradient(rows_for(trainer), np.zeros(0, dtype=np.int64))
    assert loss == 0
    assert not gradient.any()
    assert len(gradient) == sum(weight.numel() for weight in trainer.weights.values())


def test_too_little_memory_is_met_with_smaller_passes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(llama).curve
    trainer, sizes = trainer_of(llama, token_budget=500), []
    forward = trainer._parts.states

    def small(ids: torch.Tensor) -> torch.Tensor:
        sizes.append(ids.numel())
        if ids.numel() > 100:
            raise torch.OutOfMemoryError
        return forward(ids)

    monkeypatch.setattr(trainer._parts, "states", small)
    losses = [point.loss for point in trainer.train(rows_for(trainer))]
    np.testing.assert_allclose(losses, [point.loss for point in expected], rtol=1e-4)
    assert max(sizes) > 100
    monkeypatch.setattr(trainer._parts, "states", lambda ids: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    trainer.step = 0
    with pytest.raises(TrainingError, match=r"^step 1: a row of \d+ tokens does not fit the memory of cpu"):
        next(trainer.train(rows_for(trainer)))


# --- order and shares ---------------------------------------------------------------------------------------------


def test_every_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    recipe = Recipe(batch_size=4, epochs=3, seed=7)
    assert (recipe.steps(10), recipe.steps_per_epoch(10)) == (9, 3)
    batches = [recipe.batch(step, 10) for step in range(9)]
    assert [len(batch) for batch in batches] == [4, 4, 2] * 3
    epochs = [np.concatenate(batches[first : first + 3]) for first in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert epoch_order(7, 1, 10).tolist() == epochs[1].tolist()
    assert epoch_order(8, 1, 10).tolist() != epochs[1].tolist()


@pytest.mark.parametrize("workers", [1, 2, 3, 12])
def test_shares_are_the_batch_and_weigh_alike(workers: int) -> None:
    lengths = np.array([len(ids) for ids in IDS])
    batch = np.array([9, 0, 3, 4, 7, 1, 2, 6])
    shares = [share(batch, lengths, rank, workers) for rank in range(workers)]
    assert sorted(np.concatenate(shares)) == sorted(batch)
    loads = [int(lengths[own].sum()) for own in shares]
    assert max(loads) - min(loads) <= lengths[batch].max()


# --- the same bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_runs_with_one_seed_are_identical_also_after_an_interruption(dropout: float, llama: Path) -> None:
    settings = {"epochs": 2, "dropout": dropout}
    whole, again = trained(llama, **settings), trained(llama, **settings)
    assert whole.state() == again.state()
    assert whole.adapter() == again.adapter()
    assert trained(llama, **settings, seed=43).adapter() != whole.adapter()
    for stop in (1, 4):
        broken = trainer_of(llama, **settings)
        steps = broken.train(rows_for(broken))
        for _ in range(stop):
            next(steps)
        tensors, facts = broken.state()
        torch.manual_seed(stop)  # what others do to the random numbers does not matter
        resumed = trainer_of(llama, **settings)
        resumed.restore(tensors, json.loads(json.dumps(facts)))
        assert [point.step for point in resumed.train(rows_for(resumed))] == list(range(stop + 1, 7))
        assert resumed.state() == whole.state()
        assert resumed.adapter() == whole.adapter()


def test_dropout_is_applied_and_leaves_the_random_numbers_alone(llama: Path) -> None:
    with_dropout = trainer_of(llama, dropout=0.5)
    before = torch.get_rng_state()
    assert len(list(with_dropout.train(rows_for(with_dropout)))) == 3
    assert torch.equal(torch.get_rng_state(), before)
    assert flat(with_dropout.weights).tolist() != flat(trained(llama).weights).tolist()


def test_the_first_weights_depend_on_the_seed_only(llama: Path) -> None:
    first = trainer_of(llama).weights
    torch.manual_seed(5)
    second, other = trainer_of(llama).weights, trainer_of(llama, seed=1).weights
    assert flat(first).tolist() == flat(second).tolist()
    assert {weight.dtype for weight in first.values()} == {torch.float32}
    for name, weight in first.items():
        assert torch.equal(weight, torch.zeros_like(weight)) == (".lora_B." in name)
        assert torch.equal(weight, other[name]) == (".lora_B." in name)


def test_the_base_is_frozen(llama: Path) -> None:
    trainer = trained(llama)
    expected = full_model(llama, torch.float32).state_dict()
    found = {name.replace(".base_layer", ""): tensor for name, tensor in trainer.model.state_dict().items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_state_of_another_recipe_is_refused(llama: Path) -> None:
    tensors, facts = trained(llama).state()
    with pytest.raises(ValueError, match=r"no weight\..*lora_A.* of shape \(3, 32\)"):
        trainer_of(llama, rank=3).restore(tensors, facts)
    with pytest.raises(ValueError, match="tensors that have no place in this model"):
        trainer_of(llama, target_modules=("q_proj",)).restore(tensors, facts)


# --- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3"])
def test_the_adapter_scores_as_the_model_that_was_trained(name: str, tmp_path: Path) -> None:
    base = save(CONFIGS[name], tmp_path / "base")
    trainer = trained(base)
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file, data in trainer.adapter().items():
        (folder / file).write_bytes(data)
    losses, problems = TokenLosses.load(base, adapters={"a": folder}, device="cpu").losses(IDS, RESPONSES)
    assert not problems
    assert_alike(losses["a"], one_at_a_time(trainer.model, IDS, RESPONSES))
    theirs = peft.PeftModel.from_pretrained(full_model(base), folder, autocast_adapter_dtype=False).double()
    assert_alike(losses["a"], one_at_a_time(theirs, IDS, RESPONSES), rtol=1e-4, atol=1e-4)


def test_the_adapter_names_its_base_as_the_user_did(llama: Path) -> None:
    settings = json.loads(trainer_of(llama).adapter()[CONFIG_FILE])
    assert settings["base_model_name_or_path"] is None
    assert str(llama) not in json.dumps(settings)
    settings = json.loads(trainer_of(llama, base_name="org/chat").adapter()[CONFIG_FILE])
    assert settings["base_model_name_or_path"] == "org/chat"
    assert (settings["target_modules"], settings["r"], settings["lora_alpha"]) == (["q_proj", "v_proj"], 4, 8)
    assert settings["inference_mode"] is True


def test_training_lowers_the_loss(llama: Path) -> None:
    curve = trained(llama, epochs=8).curve
    assert curve[-1].loss < curve[0].loss - 0.1
    assert [point.epoch for point in curve] == [epoch for epoch in range(1, 9) for _ in range(3)]


def test_half_precision_trains_float32_adapters(llama: Path) -> None:
    exact = trained(llama)
    half = Trainer.load(llama, exact.recipe, dtype="bfloat16", device="cpu")
    losses = [point.loss for point in half.train(rows_for(half))]
    assert {weight.dtype for weight in half.weights.values()} == {torch.float32}
    np.testing.assert_allclose(losses, [point.loss for point in exact.curve], rtol=0.05)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_rows_that_cannot_be_used_are_named(llama: Path) -> None:
    info = trainer_of(llama).info
    ids = [np.arange(5), np.arange(5), np.array([1, VOCABULARY]), np.zeros(129, int), np.zeros(0, int), np.arange(5)]
    responses = [[(2, 5)], [(3, 3)], [(1, 2)], [(1, 2)], [], [(0, 1)]]
    with pytest.raises(ValueError) as error:
        TrainingRows.checked(ids, responses, info)
    assert str(error.value).split("; ") == [
        "rows 1, 5: the sample has no response tokens to learn",
        f"row 2: a token id lies outside the model's vocabulary of {VOCABULARY}",
        "row 3: the sample has more tokens than the 128 that the model takes",
        "row 4: the sample has no tokens",
    ]
    with pytest.raises(ValueError, match="no rows to train on"):
        TrainingRows.checked([], [], info)
    with pytest.raises(ValueError, match=r"^rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 5 more: "):
        TrainingRows.checked([np.arange(3)] * 15, [[]] * 15, info)


def test_a_response_at_the_very_start_loses_its_first_token(llama: Path) -> None:
    rows = TrainingRows.checked([np.arange(5)], [[(0, 2), (4, 5)]], trainer_of(llama).info)
    assert rows.positions[0].tolist() == [1, 4]
    assert rows.targets.tolist() == [2]


def test_unknown_target_modules_are_named_with_what_there_is(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no linear layer 'c_attn'; it has down_proj, .*lm_head, .*q_proj"):
        trainer_of(llama, target_modules=("q_proj", "c_attn"))
    assert trainer_of(llama, target_modules=("up_proj", "lm_head", "up_proj")).targets == ("lm_head", "up_proj")


def test_an_adapter_on_the_head_is_trained_too(llama: Path) -> None:
    trainer = trained(llama, target_modules=("lm_head",))
    assert all(weight.any() for weight in trainer.weights.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 0), ("dropout", 1.0), ("learning_rate", 0.0), ("batch_size", 0), ("epochs", 0), ("clip", float("nan")),
     ("weight_decay", -1.0), ("target_modules", ()), ("target_modules", "q_proj")],
)  # fmt: skip
def test_recipes_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Recipe(**{name: value})


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    folder = save(LlamaConfig(**GROUPED), tmp_path)
    trainer = trainer_of(folder)
    next(trainer.train(rows_for(trainer)))
    trainer.model.get_output_embeddings().weight.data[3] = float("nan")
    before = flat(trainer.weights)
    with pytest.raises(TrainingError, match=r"^step 2: the loss is not finite; lower learning_rate.*it is float32"):
        next(trainer.train(rows_for(trainer)))
    assert flat(trainer.weights).tolist() == before.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_accelerator_agrees_with_the_cpu(llama: Path) -> None:
    expected = [point.loss for point in trained(llama).curve]
    for dtype, tolerance in (("float32", 1e-3), ("auto", 0.05)):
        trainer = Trainer.load(llama, Recipe(**FAST), dtype=dtype)
        losses = [point.loss for point in trainer.train(rows_for(trainer))]
        np.testing.assert_allclose(losses, expected, rtol=tolerance)


def test_defaults_are_the_papers() -> None:
    recipe = Recipe()
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.learning_rate) == (16, 16, 0, 1e-5)
    assert (recipe.batch_size, recipe.epochs, recipe.clip, recipe.weight_decay) == (64, 2, 1.0, 0.0)
    assert (BETAS, recipe.seed, sft.TOKEN_BUDGETS["cpu"]) == ((0.9, 0.95), 42, 2048)
