"""Vectors equal those of the full, unpadded model run one sample at a time, whatever the batch; bad rows stay
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from tamis.operators.forward.representations import Representer, check_model, describe_model
from tamis.operators.requests import POSITIONS, Request

pytestmark = pytest.mark.usefixtures("one_thread")

VOCABULARY, WIDTH, BLOCKS, LONGEST = 97, 32, 4, 70

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 56,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {**COMMON, "num_key_value_heads": 2}
GEMMA: dict[str, Any] = {**GROUPED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 24,
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [2.0, 4.0, 8.0, 16.0],
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": WIDTH,
    "n_layer": BLOCKS,
    "n_head": 4,
    "n_positions": 128,
}

CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=16, max_window_layers=2),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=16),
    "gemma2": Gemma2Config(**GEMMA),
    "gemma3": Gemma3TextConfig(
        **GEMMA,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    ),
    "phi3": Phi3Config(**GROUPED, sliding_window=16),
    "phi3_long": Phi3Config(**GROUPED, original_max_position_embeddings=24, rope_parameters=LONG_ROPE),
    "gpt2": GPT2Config(**GPT2, initializer_range=0.3, scale_attn_by_inverse_layer_idx=True),
    "gpt_neox": GPTNeoXConfig(**COMMON),
    "olmo2": Olmo2Config(**GROUPED),
    "opt": OPTConfig(**{**COMMON, "ffn_dim": 56, "word_embed_proj_dim": WIDTH, "init_std": 0.3}),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
}
EVERYTHING = tuple(Request(block, position) for block in range(BLOCKS) for position in POSITIONS)


def save(config: PreTrainedConfig, folder: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if "norm" in name or "ln_" in name or name.endswith("bias"):  # left at one and zero they would hide mistakes
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def samples(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Random token ids with a random answer range in each: first a row of one token, then the longest, then
    any length.
    """
    random = np.random.default_rng(seed)
    lengths = np.concatenate([[1, LONGEST], random.integers(2, LONGEST + 1, count - 2)])
    ids = [random.integers(0, VOCABULARY, length, dtype=np.int32) for length in lengths]
    starts = [int(random.integers(1, length)) if length > 1 else 0 for length in lengths]
    stops = [int(random.integers(start + 1, length + 1)) for start, length in zip(starts, lengths, strict=True)]
    return ids, np.stack([starts, stops], axis=1)


def usable_samples(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows that have a prompt, and in which token 11 does not occur."""
    ids, finals = samples(count + 1, seed)
    return [np.where(row == 11, 12, row) for row in ids[1:]], finals[1:]


def one_at_a_time(
    folder: Path, ids: list[np.ndarray], finals: np.ndarray, dtype: str = "float32"
) -> dict[Request, np.ndarray]:
    """The naive twin: full model, eager attention, batch 1, all hidden states; the last block by a hook of
    its own.
    """
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    ).eval()
    blocks = next(
        module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == BLOCKS
    )
    last: list[torch.Tensor] = []
    blocks[-1].register_forward_hook(
        lambda module, args, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    vectors = {request: np.full((len(ids), WIDTH), np.nan, dtype=np.float64) for request in EVERYTHING}
    for row, (tokens, (start, stop)) in enumerate(zip(ids, finals, strict=True)):
        last.clear()
        with torch.no_grad():
            states = model(torch.from_numpy(tokens.astype(np.int64))[None], output_hidden_states=True).hidden_states
        for request in EVERYTHING:
            block = last[0] if request.block == BLOCKS - 1 else states[request.block + 1]
            hidden = block[0].double().numpy()
            if request.position == "last_token":
                vectors[request][row] = hidden[-1]
            elif request.position == "response_mean":
                vectors[request][row] = hidden[start:stop].mean(axis=0)
            elif start > 0:
                vectors[request][row] = hidden[start - 1]
    return vectors


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


@pytest.fixture
def representer(llama: Path) -> Iterator[Representer]:
    loaded = Representer.load(llama, EVERYTHING, device="cpu")
    yield loaded
    loaded.close()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_block_and_position_equals_the_full_unpadded_model(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = samples(24, seed=len(name))
    expected = one_at_a_time(folder, ids, finals)
    representer = Representer.load(folder, EVERYTHING, device="cpu")
    for token_budget in (300, 4096):  # several batches of like length; one batch of all lengths
        vectors, problems = representer.represent(ids, finals, token_budget=token_budget)
        assert {row: problem.code for row, problem in problems.items()} == {0: "no_prompt_token"}
        for request in EVERYTHING:
            assert vectors[request].dtype == np.float32
            np.testing.assert_allclose(vectors[request][1:], expected[request][1:], rtol=1e-4, atol=1e-4)
            assert np.isnan(vectors[request][0]).all()


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "gpt_neox", "qwen2", "opt"])
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_model_cut_after_any_block_gives_that_blocks_output(name: str, block: int, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = samples(6, seed=3)
    request = Request(block, "last_token")
    vectors, problems = Representer.load(folder, [request], device="cpu").represent(ids, finals)
    assert not problems
    np.testing.assert_allclose(vectors[request], one_at_a_time(folder, ids, finals)[request], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def shared(llama: Path) -> Representer:
    return Representer.load(llama, EVERYTHING, device="cpu")


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(1, 900))
def test_a_row_does_not_depend_on_its_batch(shared: Representer, seed: int, budget: int) -> None:
    """1e-5 of the row's norm in float32, for any neighbours, order and batch size."""
    ids, finals = usable_samples(9, seed)
    order = np.random.default_rng(seed).permutation(len(ids))
    together, _ = shared.represent(ids, finals, token_budget=budget)
    shuffled, _ = shared.represent([ids[row] for row in order], finals[order], token_budget=4096)
    for place, row in enumerate(order):
        alone, problems = shared.represent([ids[row]], finals[row : row + 1])
        assert not problems
        for request in EVERYTHING:
            allowed = 1e-5 * np.linalg.norm(alone[request][0])
            assert np.linalg.norm(together[request][row] - alone[request][0]) <= allowed
            assert np.linalg.norm(shuffled[request][place] - alone[request][0]) <= allowed


def test_the_same_call_gives_the_same_bits(representer: Representer) -> None:
    ids, finals = samples(20)
    first, _ = representer.represent(ids, finals, token_budget=500)
    second, _ = representer.represent(ids, finals, token_budget=500)
    for request in EVERYTHING:
        np.testing.assert_array_equal(first[request], second[request])


def test_no_rows(representer: Representer) -> None:
    vectors, problems = representer.represent([], np.zeros((0, 2), dtype=np.int64))
    assert not problems
    assert {array.shape for array in vectors.values()} == {(0, WIDTH)}


def test_bad_rows_are_named_and_the_others_are_scored(llama: Path) -> None:
    ids = [
        np.array([5, 6, 7], dtype=np.int32),
        np.array([5, VOCABULARY], dtype=np.int32),
        np.array([-1, 5], dtype=np.int32),
        np.ones(129, dtype=np.int32),
        np.array([], dtype=np.int32),
        np.array([5, 6], dtype=np.int32),
        np.array([5, 6], dtype=np.int32),
    ]
    finals = [[1, 3], [1, 2], [1, 2], [1, 2], [0, 0], [0, 2], [1, 1]]
    representer = Representer.load(llama, EVERYTHING, device="cpu")
    vectors, problems = representer.represent(ids, finals)
    assert {row: problem.code for row, problem in problems.items()} == {
        1: "bad_token_id",
        2: "bad_token_id",
        3: "too_long_for_model",
        4: "empty",
        5: "no_prompt_token",
        6: "no_response_token",
    }
    for array in vectors.values():
        assert np.isfinite(array[0]).all()
        assert np.isnan(array[1:]).all()


def test_a_missing_prompt_or_answer_matters_only_when_asked_for(llama: Path) -> None:
    representer = Representer.load(llama, [Request(0, "last_token")], device="cpu")
    ids = [np.array([5, 6], dtype=np.int32)] * 2
    _, problems = representer.represent(ids, [[0, 2], [2, 2]])
    assert not problems


@pytest.mark.parametrize("finals", [[[0, 4]], [[-1, 2]], [[2, 1]], [[0, 1], [0, 1]], [[0.0, 1.0]]])
def test_ranges_outside_a_row_are_the_callers_mistake(representer: Representer, finals: Any) -> None:
    with pytest.raises(ValueError):
        representer.represent([np.array([1, 2, 3], dtype=np.int32)], finals)


def test_token_ids_must_be_whole_numbers(representer: Representer) -> None:
    with pytest.raises(ValueError, match="row 0"):
        representer.represent([np.array([1.0, 2.0])], [[0, 1]])  # type: ignore[list-item]


def poison(representer: Representer, token: int, value: float) -> None:
    """Make one token's embedding `value`: the model itself goes wrong wherever that token stands."""
    representer._model.get_input_embeddings().weight.data[token] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_alone_with_it(llama: Path, value: float) -> None:
    representer = Representer.load(llama, EVERYTHING, device="cpu")
    ids, finals = samples(10)
    ids = [np.where(row == 11, 12, row) for row in ids]
    ids[4][0] = 11
    finals[0] = [0, 1]
    good, _ = representer.represent(ids, finals)
    poison(representer, 11, value)
    vectors, problems = representer.represent(ids, finals)
    assert {row: problem.code for row, problem in problems.items()} == {0: "no_prompt_token", 4: "non_finite"}
    for request in EVERYTHING:
        assert np.isnan(vectors[request][4]).all()
        others = [row for row in range(10) if row != 4]
        np.testing.assert_array_equal(vectors[request][others], good[request][others])


@pytest.mark.parametrize("token", [0, 1, 2])
def test_padding_never_reaches_a_row(llama: Path, token: int) -> None:
    """No embedding of a token that a row does not hold, be it padding or a marker, can spoil it."""
    representer = Representer.load(llama, EVERYTHING, device="cpu")
    poison(representer, token, float("nan"))
    ids = [np.full(length, 7, dtype=np.int32) for length in (2, 9, 30)]
    _, problems = representer.represent(ids, [[1, 2], [1, 2], [1, 2]])
    assert not problems


class Fault:
    """A forward hook that raises on batches that hold a given token, or on all: an error in the model's own
    code.
    """

    def __init__(self, representer: Representer, error: Exception, token: int | None = None, rows: int = 1) -> None:
        self.error, self.token, self.rows = error, token, rows
        self.batches: list[int] = []
        self.handle = representer._model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        tokens = kwargs["input_ids"]
        self.batches.append(len(tokens))
        if len(tokens) >= self.rows and (self.token is None or bool((tokens == self.token).any())):
            raise self.error


def test_a_row_that_breaks_the_model_is_found_and_the_others_are_scored(representer: Representer) -> None:
    ids, finals = usable_samples(16)
    good, _ = representer.represent(ids, finals)
    ids[3][-1] = 11
    Fault(representer, RuntimeError("secret sample text"), token=11)
    vectors, problems = representer.represent(ids, finals)
    assert {row: problem.code for row, problem in problems.items()} == {3: "forward_failed"}
    assert "RuntimeError" in problems[3].message
    assert "secret" not in problems[3].message
    others = [row for row in range(16) if row != 3]
    for request in EVERYTHING:
        np.testing.assert_allclose(vectors[request][others], good[request][others], rtol=1e-4, atol=1e-5)


def test_out_of_memory_halves_the_batch_until_it_fits(representer: Representer) -> None:
    ids, finals = usable_samples(1)
    ids, finals = [np.roll(ids[0], places) for places in range(16)], finals.repeat(16, axis=0)  # one batch: one length
    good, _ = representer.represent(ids, finals)
    fault = Fault(representer, torch.OutOfMemoryError("CUDA out of memory"), rows=3)
    vectors, problems = representer.represent(ids, finals)
    assert not problems
    assert fault.batches[:4] == [16, 8, 4, 2]
    for request in EVERYTHING:
        np.testing.assert_allclose(vectors[request], good[request], rtol=1e-4, atol=1e-5)


def test_rows_that_never_fit_are_set_aside(representer: Representer) -> None:
    ids, finals = usable_samples(3)
    Fault(representer, torch.OutOfMemoryError("CUDA out of memory"))
    _, problems = representer.represent(ids, finals)
    assert [problem.code for problem in problems.values()] == ["forward_failed"] * 3


def test_an_error_that_hits_every_row_is_raised(representer: Representer) -> None:
    ids, finals = usable_samples(4)
    fault = Fault(representer, TypeError("a mistake in the program"))
    with pytest.raises(TypeError, match="a mistake"):
        representer.represent(ids, finals)
    fault.handle.remove()
    _, problems = representer.represent(ids, finals)  # nothing is left over of the failure
    assert not problems


def test_a_single_row_that_fails_is_set_aside(representer: Representer) -> None:
    ids, finals = usable_samples(1)
    Fault(representer, TypeError("a mistake"))
    _, problems = representer.represent(ids, finals)
    assert {row: problem.code for row, problem in problems.items()} == {0: "forward_failed"}


def test_a_broken_accelerator_is_raised_at_once(representer: Representer) -> None:
    ids, finals = usable_samples(8)
    fault = Fault(representer, torch.AcceleratorError("device-side assert"), token=int(ids[0][0]))
    with pytest.raises(torch.AcceleratorError):
        representer.represent(ids, finals)
    assert len(fault.batches) == 1


def test_closing_removes_the_hooks(llama: Path) -> None:
    representer = Representer.load(llama, EVERYTHING, device="cpu")
    model = representer._model
    hooks = [len(module._forward_hooks) for module in model.modules()]
    representer.close()
    assert sum(hooks) - sum(len(module._forward_hooks) for module in model.modules()) == BLOCKS


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_errs_no_more_than_transformers_own(llama: Path, dtype: str) -> None:
    ids, finals = usable_samples(12)
    exact = one_at_a_time(llama, ids, finals)
    twin = one_at_a_time(llama, ids, finals, dtype=dtype)
    representer = Representer.load(llama, EVERYTHING, device="cpu", dtype=dtype)
    assert str(representer.dtype) == f"torch.{dtype}"
    vectors, problems = representer.represent(ids, finals)
    assert not problems
    for request in EVERYTHING:
        assert vectors[request].dtype == np.float32
        allowed = 2 * np.linalg.norm(twin[request] - exact[request])
        assert 0 < np.linalg.norm(vectors[request] - exact[request]) <= allowed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CONFIGS)
def test_the_accelerator_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    folder = save(CONFIGS[name], tmp_path)
    ids, finals = usable_samples(24)
    expected = one_at_a_time(folder, ids, finals)
    for dtype, tolerance in (("float32", 1e-3), ("auto", 0.1)):
        representer = Representer.load(folder, EVERYTHING, dtype=dtype)
        assert representer.device.type == "cuda"
        vectors, problems = representer.represent(ids, finals, token_budget=300)
        assert not problems
        for request in EVERYTHING:
            error = np.linalg.norm(vectors[request] - expected[request], axis=1)
            assert (error <= tolerance * np.linalg.norm(expected[request], axis=1)).all()


def test_describe_and_check_read_no_weights(llama: Path) -> None:
    info = describe_model(llama)
    assert (info.architecture, info.blocks, info.width) == ("LlamaForCausalLM", BLOCKS, WIDTH)
    assert (info.vocabulary, info.max_positions) == (VOCABULARY, 128)
    found, parameters = check_model(llama, EVERYTHING)
    assert found == info
    loaded = Representer.load(llama, EVERYTHING)._model.parameters()
    assert parameters == sum(parameter.numel() for parameter in loaded)


def test_gpt2_names_its_numbers_differently(tmp_path: Path) -> None:
    CONFIGS["gpt2"].save_pretrained(tmp_path)
    info = describe_model(tmp_path)
    assert (info.blocks, info.width, info.vocabulary, info.max_positions) == (BLOCKS, WIDTH, VOCABULARY, 128)


def test_senseless_requests_are_refused(llama: Path) -> None:
    with pytest.raises(ValueError, match="no vector"):
        Representer.load(llama, [])
    with pytest.raises(ValueError, match="block 4 is requested, but LlamaForCausalLM has blocks 0 to 3"):
        Representer.load(llama, [Request(BLOCKS, "last_token")])
    with pytest.raises(ValueError, match="dtype='float64'"):
        Representer.load(llama, EVERYTHING, dtype="float64")
    with pytest.raises(ValueError, match="device='tpu9'"):
        Representer.load(llama, EVERYTHING, device="tpu9")
