"""Losses equal transformers' own, of the full, unpadded model run one sample at a time in float64; bad rows stay
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import chat, fast_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_lm_head import HEADS
from test_representations import CONFIGS, GEMMA, LONGEST, VOCABULARY, save
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma3TextConfig, PreTrainedConfig

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.forward.losses import TokenLosses, cross_entropy
from tamis.operators.model.architecture import describe, read_config
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

ARCHITECTURES: dict[str, PreTrainedConfig] = {
    **CONFIGS,
    **{f"head_{name}": config for name, config in HEADS.items()},
    "gemma3_soft_cap": Gemma3TextConfig(**GEMMA, final_logit_softcapping=5.0),
}
TOLERANCE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}

Ranges = list[tuple[int, int]]


def samples(count: int, seed: int = 0, longest: int = LONGEST) -> tuple[list[np.ndarray], list[Ranges]]:
    """Random rows of 2 to `longest` tokens without token 11; one to three response ranges in each, some of them
    empty, the last often before the row's end.
    """
    random = np.random.default_rng(seed)
    lengths = np.concatenate([[longest, 2], random.integers(2, longest + 1, max(count - 2, 0))])[:count]
    ids, responses = [], []
    for length in lengths:
        row = random.integers(0, VOCABULARY, length, dtype=np.int32)
        ids.append(np.where(row == 11, 12, row).astype(np.int32))
        edges = np.sort(random.integers(1, length + 1, 2 * int(random.integers(1, 4))))
        if (edges[::2] == edges[1::2]).all():
            edges = np.array([1, length])
        responses.append([(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)])
    return ids, responses


def full_model(folder: Path, dtype: torch.dtype = torch.float64, attention: str = "eager") -> Any:
    options = {"experts_implementation": "eager"} if dtype == torch.float64 else {}  # the others lack float64
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention, **options).eval()


def one_at_a_time(model: Any, ids: Sequence[np.ndarray], responses: Sequence[Ranges]) -> list[np.ndarray]:
    """The naive twin: batch 1, all logits, F.cross_entropy."""
    losses = []
    for row, ranges in zip(ids, responses, strict=True):
        tokens = torch.from_numpy(row.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=tokens[None]).logits[0].to(torch.float64)
        every = functional.cross_entropy(logits[:-1], tokens[1:], reduction="none").numpy()
        losses.append(np.concatenate([every[start - 1 : stop - 1] for start, stop in ranges]))
    return losses


def assert_alike(got: Sequence[np.ndarray], expected: Sequence[np.ndarray], **tolerance: float) -> None:
    assert [len(row) for row in got] == [len(row) for row in expected]
    assert all(row.dtype == np.float32 for row in got)
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(expected), **{**TOLERANCE, **tolerance})


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(CONFIGS["llama"], tmp_path_factory.mktemp("llama"))


@pytest.fixture
def scorer(llama: Path) -> TokenLosses:
    return TokenLosses.load(llama, device="cpu")


@pytest.fixture(scope="module")
def shared(llama: Path) -> TokenLosses:
    return TokenLosses.load(llama, device="cpu")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_loss_equals_that_of_the_full_unpadded_model_in_float64(name: str, tmp_path: Path) -> None:
    folder = save(ARCHITECTURES[name], tmp_path)
    ids, responses = samples(20, seed=len(name))
    model = full_model(folder)
    expected = one_at_a_time(model, ids, responses)
    scorer = TokenLosses.load(folder, device="cpu")
    assert scorer.names == ("base",)
    for token_budget in (200, 4096):  # several batches of like length; one batch of all lengths
        losses, problems = scorer.losses(ids, responses, token_budget=token_budget)
        assert not problems
        assert list(losses) == ["base"]
        assert_alike(losses["base"], expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mean_is_transformers_own_loss_whichever_side_it_pads(side: str, llama: Path) -> None:
    ids, responses = samples(12, seed=5)
    model = full_model(llama, attention="sdpa")  # eager attention gives NaN where a row begins with padding
    longest = max(map(len, ids))
    shape = (len(ids), longest)
    tokens, mask, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -100)
    for row, (own, ranges) in enumerate(zip(ids, responses, strict=True)):
        start = longest - len(own) if side == "left" else 0
        tokens[row, start : start + len(own)] = own
        mask[row, start : start + len(own)] = 1
        for first, last in ranges:
            labels[row, start + first : start + last] = own[first:last]
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    with torch.no_grad():
        expected = model(
            input_ids=torch.from_numpy(tokens),
            attention_mask=torch.from_numpy(mask),
            position_ids=torch.from_numpy(positions),
            labels=torch.from_numpy(labels),
        ).loss
    losses, _ = TokenLosses.load(llama, device="cpu").losses(ids, responses)
    np.testing.assert_allclose(np.concatenate(losses["base"]).mean(), float(expected), rtol=1e-5)


def test_the_tokenizers_padding_side_does_not_matter(llama: Path) -> None:
    """From conversations to losses with tokenizers that pad on the left and on the right."""
    template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    chats = [chat("Hello", "World"), chat("Tell me", "No, I cannot", "Why?", "Because")]
    conversations = [*map(Conversation, chats)]
    found = []
    for side in ("left", "right"):
        tokenizer = fast_tokenizer("byte_level")
        tokenizer.padding_side = side
        encoded = ChatTokenizer(tokenizer, template).encode(conversations, max_tokens=100, overlong="quarantine")
        rows = [row for row in encoded if isinstance(row, Tokenised)]
        assert [len(row.responses) for row in rows] == [1, 2]
        ids = [row.input_ids % VOCABULARY for row in rows]
        losses, problems = TokenLosses.load(llama, device="cpu").losses(ids, [row.responses for row in rows])
        assert not problems
        expected = one_at_a_time(full_model(llama), ids, [list(row.responses) for row in rows])
        assert_alike(losses["base"], expected)
        found.append(np.concatenate(losses["base"]))
    np.testing.assert_array_equal(*found)


def test_thousands_of_rows(shared: TokenLosses, llama: Path) -> None:
    ids, responses = samples(3000, seed=1, longest=12)
    losses, problems = shared.losses(ids, responses)
    assert not problems
    expected = one_at_a_time(full_model(llama), ids[::10], responses[::10])
    assert_alike(losses["base"][::10], expected)


def test_one_row_and_none(shared: TokenLosses, llama: Path) -> None:
    ids = [np.array([5, 6], dtype=np.uint8)]
    losses, problems = shared.losses(ids, [[(1, 2)]])
    assert not problems
    assert_alike(losses["base"], one_at_a_time(full_model(llama), ids, [[(1, 2)]]))
    assert shared.losses([], []) == ({"base": []}, {})


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), budget=st.integers(1, 900))
def test_a_row_does_not_depend_on_its_batch(shared: TokenLosses, seed: int, budget: int) -> None:
    ids, responses = samples(9, seed)
    order = np.random.default_rng(seed).permutation(len(ids))
    together, _ = shared.losses(ids, responses, token_budget=budget)
    shuffled, _ = shared.losses([ids[row] for row in order], [responses[row] for row in order])
    for place, row in enumerate(order):
        alone, problems = shared.losses([ids[row]], [responses[row]])
        assert not problems
        allowed = 1e-5 * max(1.0, float(np.abs(alone["base"][0]).max()))
        np.testing.assert_allclose(together["base"][row], alone["base"][0], rtol=1e-5, atol=allowed)
        np.testing.assert_allclose(shuffled["base"][place], alone["base"][0], rtol=1e-5, atol=allowed)


def test_the_same_call_gives_the_same_bits(shared: TokenLosses) -> None:
    ids, responses = samples(20)
    first, _ = shared.losses(ids, responses, token_budget=500)
    second, _ = shared.losses(ids, responses, token_budget=500)
    for left, right in zip(first["base"], second["base"], strict=True):
        np.testing.assert_array_equal(left, right)


def test_exact_losses_are_the_same_to_the_bit_in_any_company(shared: TokenLosses) -> None:
    ids, responses = samples(12, seed=8)
    together, _ = shared.losses(ids, responses, exact=True)
    for row in (0, 5, 11):
        alone, _ = shared.losses(ids[row : row + 1], responses[row : row + 1], exact=True)
        np.testing.assert_array_equal(together["base"][row], alone["base"][0])


def with_chunks(folder: Path, chunk_bytes: int) -> TokenLosses:
    config = read_config(folder, revision=None, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return TokenLosses(model, "model.layers", describe(config), config, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("positions", [1, 2, 7, 100, 10_000])
def test_chunks_do_not_show(positions: int, llama: Path, shared: TokenLosses) -> None:
    """The head never sees more positions at a time than its bytes allow, and only those that predict a response."""
    ids, responses = samples(16, seed=2)
    expected, _ = shared.losses(ids, responses)
    scorer = with_chunks(llama, positions * 2 * VOCABULARY * 4)
    seen: list[int] = []
    scorer._parts._head_model.lm_head.register_forward_hook(
        lambda module, args, output: seen.append(output[..., 0].numel())
    )
    losses, problems = scorer.losses(ids, responses, token_budget=300)
    assert not problems
    assert_alike(losses["base"], expected["base"])
    assert max(seen) <= positions
    assert sum(seen) == sum(map(len, expected["base"]))


def test_tokens_after_the_last_response_are_not_run(scorer: TokenLosses) -> None:
    ids, responses = samples(8, seed=3)
    expected, _ = scorer.losses(ids, responses)
    longest = max(ranges[-1][1] for ranges in responses)
    shapes: list[torch.Size] = []
    watch(scorer, lambda tokens: shapes.append(tokens.shape))
    tail = np.full(40, 5, dtype=np.int32)
    losses, _ = scorer.losses([np.concatenate([row, tail]) for row in ids], responses)
    assert_alike(losses["base"], expected["base"])
    assert max(shape[1] for shape in shapes) == longest - 1


def test_a_row_at_the_length_where_rotary_frequencies_change(tmp_path: Path) -> None:
    """The frequencies follow the whole row, also where its last tokens need not be run."""
    folder = save(CONFIGS["phi3_long"], tmp_path)
    ids = [np.arange(3, 3 + length) for length in (23, 24, 25, 26, 40)]
    responses: list[Ranges] = [[(2, len(row))] for row in ids[:-1]] + [[(2, 10)]]
    expected = one_at_a_time(full_model(folder), ids, responses)
    losses, problems = TokenLosses.load(folder, device="cpu").losses(ids, responses)
    assert not problems
    assert_alike(losses["base"], expected)


def test_bad_rows_are_named_and_the_others_are_scored(shared: TokenLosses, llama: Path) -> None:
    rows: list[tuple[list[int], Ranges, str | None]] = [
        ([5, 6, 7], [(1, 3)], None),
        ([5, VOCABULARY], [(1, 2)], "bad_token_id"),
        ([-1, 5], [(1, 2)], "bad_token_id"),
        ([1] * 129, [(1, 129)], "too_long_for_model"),
        ([], [], "empty"),
        ([5, 6], [(0, 2)], "no_prompt_token"),
        ([5, 6], [(0, 0), (1, 2)], None),
        ([5, 6], [(0, 1)], "no_prompt_token"),
        ([5, 6], [(1, 1)], "no_response_token"),
        ([5, 6], [], "no_response_token"),
        ([1] * 128, [(127, 128)], None),
    ]
    ids = [np.array(row, dtype=np.int32) for row, _, _ in rows]
    responses = [ranges for _, ranges, _ in rows]
    losses, problems = shared.losses(ids, responses)
    assert {row: problem.code for row, problem in problems.items()} == {
        row: code for row, (_, _, code) in enumerate(rows) if code
    }
    assert [len(row) for row in losses["base"]] == [sum(b - a for a, b in ranges) for ranges in responses]
    good = [row for row in range(len(rows)) if row not in problems]
    expected = one_at_a_time(full_model(llama), [ids[row] for row in good], [responses[row] for row in good])
    assert_alike([losses["base"][row] for row in good], expected)
    for row in problems:
        assert np.isnan(losses["base"][row]).all()


@pytest.mark.parametrize(
    "responses",
    [[[(0, 4)]], [[(-1, 2)]], [[(2, 1)]], [[(0, 1)], [(0, 1)]], [], [[(1.0, 2.0)]], [[(1, 2, 3)]], [[(2, 3), (1, 2)]]],
)
def test_ranges_outside_a_row_are_the_callers_mistake(shared: TokenLosses, responses: Any) -> None:
    with pytest.raises(ValueError):
        shared.losses([np.array([1, 2, 3], dtype=np.int32)], responses)


def test_a_token_must_not_be_counted_twice(shared: TokenLosses) -> None:
    with pytest.raises(ValueError, match=r"row 1.*\[\[1, 3\], \[2, 4\]\]"):
        shared.losses([np.arange(4), np.arange(4)], [[(1, 2), (2, 4)], [(1, 3), (2, 4)]])


def test_other_mistakes_of_the_caller(shared: TokenLosses) -> None:
    with pytest.raises(ValueError, match="row 0"):
        shared.losses([np.array([1.0, 2.0])], [[(1, 2)]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="no model named 'harmful'; loaded: base"):
        shared.losses([np.array([1, 2])], [[(1, 2)]], names=["harmful"])


def poison(scorer: TokenLosses, token: int, value: float) -> None:
    scorer._parts.body.embed_tokens.weight.data[token] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_is_alone_with_it(scorer: TokenLosses, value: float) -> None:
    ids, responses = samples(10)
    ids[4][0] = 11
    good, _ = scorer.losses(ids, responses)
    poison(scorer, 11, value)
    losses, problems = scorer.losses(ids, responses)
    assert {row: problem.code for row, problem in problems.items()} == {4: "non_finite"}
    assert np.isnan(losses["base"][4]).all()
    for row in set(range(10)) - {4}:
        np.testing.assert_array_equal(losses["base"][row], good["base"][row])


def test_a_token_that_is_impossible_is_not_finite(scorer: TokenLosses) -> None:
    """A logit of minus infinity spoils the rows that hold its token in an answer, and no other."""
    scorer._parts._head_model.lm_head.register_forward_hook(
        lambda module, args, output: output.index_fill(-1, torch.tensor([11]), float("-inf"))
    )
    ids = [np.array([5, 6, 11]), np.array([5, 11, 6]), np.array([5, 6, 7])]
    _, problems = scorer.losses(ids, [[(1, 3)], [(2, 3)], [(1, 3)]])
    assert {row: problem.code for row, problem in problems.items()} == {0: "non_finite"}


def watch(scorer: TokenLosses, see: Any) -> None:
    """Call `see` with the token ids of each batch, in the body, before it runs."""
    scorer._parts.body.register_forward_pre_hook(
        lambda module, args, kwargs: see(kwargs["input_ids"]), with_kwargs=True
    )


def test_out_of_memory_halves_the_batch_until_it_fits(scorer: TokenLosses) -> None:
    ids, responses = samples(1)
    ids, responses = [np.roll(ids[0], places) for places in range(16)], responses * 16  # one batch: one length
    good, _ = scorer.losses(ids, responses)
    sizes: list[int] = []

    def small_memory(tokens: torch.Tensor) -> None:
        sizes.append(len(tokens))
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch(scorer, small_memory)
    losses, problems = scorer.losses(ids, responses)
    assert not problems
    assert sizes[:4] == [16, 8, 4, 2]
    assert_alike(losses["base"], good["base"])


def test_out_of_memory_in_the_head_halves_the_batch_too(scorer: TokenLosses) -> None:
    ids, responses = samples(16)
    good, _ = scorer.losses(ids, responses)

    def small_memory(module: Any, args: tuple[torch.Tensor]) -> None:
        if args[0].shape[1] > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")

    scorer._parts._head_model.lm_head.register_forward_pre_hook(small_memory)
    losses, problems = scorer.losses(ids, responses)
    assert not problems
    assert_alike(losses["base"], good["base"])


def test_rows_that_never_fit_are_set_aside(scorer: TokenLosses) -> None:
    def no_memory(tokens: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    watch(scorer, no_memory)
    losses, problems = scorer.losses(*samples(3))
    assert [problem.code for problem in problems.values()] == ["forward_failed"] * 3
    assert all(np.isnan(row).all() for row in losses["base"])


def test_a_row_that_breaks_the_model_is_found_and_the_others_are_scored(scorer: TokenLosses) -> None:
    ids, responses = samples(16)
    good, _ = scorer.losses(ids, responses)
    ids[3][0] = 11

    def break_down(tokens: torch.Tensor) -> None:
        if (tokens == 11).any():
            raise RuntimeError("secret sample text")

    watch(scorer, break_down)
    losses, problems = scorer.losses(ids, responses)
    assert {row: problem.code for row, problem in problems.items()} == {3: "forward_failed"}
    assert "secret" not in problems[3].message
    for row in set(range(16)) - {3}:
        np.testing.assert_allclose(losses["base"][row], good["base"][row], **TOLERANCE)


def test_an_error_that_hits_every_row_is_raised(scorer: TokenLosses) -> None:
    def break_down(tokens: torch.Tensor) -> None:
        raise TypeError("a mistake in the program")

    watch(scorer, break_down)
    with pytest.raises(TypeError, match="a mistake"):
        scorer.losses(*samples(4))


def test_the_weights_stay_as_they_were(scorer: TokenLosses) -> None:
    def digest() -> str:
        digests = [parameter.detach().numpy().tobytes() for parameter in scorer._parts.body.parameters()]
        head = scorer._parts._head_model.lm_head.weight.detach().numpy().tobytes()
        return hashlib.sha256(b"".join([*digests, head])).hexdigest()

    before = digest()
    scorer.losses(*samples(8))
    assert digest() == before


@pytest.mark.parametrize("name", ["llama", "head_soft_cap"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_errs_no_more_than_transformers_own(dtype: str, name: str, tmp_path: Path) -> None:
    folder = save(ARCHITECTURES[name], tmp_path)
    ids, responses = samples(12)
    exact = np.concatenate(one_at_a_time(full_model(folder), ids, responses))
    twin = np.concatenate(one_at_a_time(full_model(folder, getattr(torch, dtype)), ids, responses))
    scorer = TokenLosses.load(folder, device="cpu", dtype=dtype)
    assert str(scorer.dtype) == f"torch.{dtype}"
    losses, problems = scorer.losses(ids, responses)
    assert not problems
    error = np.linalg.norm(np.concatenate(losses["base"]) - exact)
    assert 0 < error <= 1.5 * np.linalg.norm(twin - exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_cross_entropy_is_exact_to_float32(rows: int, dtype: torch.dtype) -> None:
    """Logits far from zero, a target far below the others, and one that takes all the probability."""
    generator = torch.Generator().manual_seed(rows)
    logits = (30 * torch.randn((rows, 20_000), generator=generator) - 500).to(dtype)
    targets = torch.randint(0, 20_000, (rows,), generator=generator)
    logits[0, targets[0]] = 800.0
    expected = functional.cross_entropy(logits.double(), targets, reduction="none")
    got = cross_entropy(logits, targets)
    assert got.dtype == torch.float32
    assert got[0] == 0
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_accelerator_agrees_with_the_cpu(name: str, tmp_path: Path) -> None:
    folder = save(ARCHITECTURES[name], tmp_path)
    ids, responses = samples(24)
    expected = np.concatenate(one_at_a_time(full_model(folder), ids, responses))
    for dtype, tolerance in (("float32", 1e-3), ("auto", 0.2)):
        scorer = TokenLosses.load(folder, dtype=dtype)
        assert scorer.device.type == "cuda"
        losses, problems = scorer.losses(ids, responses, token_budget=300)
        assert not problems
        error = np.linalg.norm(np.concatenate(losses["base"]) - expected)
        assert error <= tolerance * np.linalg.norm(expected)
