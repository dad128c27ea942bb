"""What the benchmarks measure with: nothing is timed before all ways agree, and what they count is what was done."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import corpora  # noqa: E402
import layers  # noqa: E402
import models  # noqa: E402
import token_losses  # noqa: E402
import ways  # noqa: E402
from agreement import agreement, require_agreement  # noqa: E402
from ceiling import finalists, products  # noqa: E402
from counting import count_tokens  # noqa: E402
from forward import split_options  # noqa: E402
from profiling import group_of, profiled  # noqa: E402
from tables import markdown  # noqa: E402
from timing import interleave, summarise  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402

from tamis.operators.forward.losses import TokenLosses  # noqa: E402
from tamis.operators.forward.representations import Representer  # noqa: E402
from tamis.operators.generation.scaled_answers import ScaledAnswers  # noqa: E402

SHAPE = models.Shape(width=32, mlp=48, heads=4, kv_heads=2, blocks=4, vocabulary=300, block=2)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("small")
    with torch.random.fork_rng():
        config = SHAPE.config()
        config.initializer_range = 0.2
        model = models.make_random(config, dtype=torch.float32, device=CPU)
    models.save_up_to(model, folder, SHAPE.blocks - 1)
    return model, folder


@pytest.fixture(scope="module")
def rows() -> corpora.Corpus:
    return corpora.with_random_ids(corpora.drawn(70, seed=1), SHAPE.vocabulary)


# --- turns --------------------------------------------------------------------------------------------------------


def test_every_measurement_is_taken_in_every_round_and_each_round_begins_with_another_one() -> None:
    order: list[str] = []

    def measurement(name: str) -> float:
        order.append(name)
        return float(len(order))

    taken = interleave({name: lambda name=name: measurement(name) for name in "abc"}, 4)  # type: ignore[misc]
    assert "".join(order) == "abcbcacababc"
    assert taken == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}


def test_a_summary_holds_median_smallest_and_largest() -> None:
    summary = summarise([5.0, 1.0, 2.0])
    assert (summary.median, summary.min, summary.max, summary.repeats) == (2.0, 1.0, 5.0, 3)


def test_a_table_is_valid_markdown_with_aligned_columns() -> None:
    lines = markdown(["way", "s"], [["(a) long name", "1"], ["b", "12.5"]]).splitlines()
    assert lines == [
        "| way           |    s |",
        "|---------------|-----:|",
        "| (a) long name |    1 |",
        "| b             | 12.5 |",
    ]


# --- the corpus ---------------------------------------------------------------------------------------------------


def test_drawn_lengths_have_the_quantiles_of_alpaca() -> None:
    quantiles = corpora.drawn(3000).quantiles()
    assert abs(quantiles["median"] - 64) <= 1
    assert abs(quantiles["mean"] - 83) <= 2
    assert abs(quantiles["p95"] - 196) <= 2
    assert quantiles["rows"] == 3000


@pytest.mark.parametrize("count", [1, 2, 7, 500])
def test_drawn_answers_lie_within_their_rows_and_the_order_is_not_by_length(count: int) -> None:
    corpus = corpora.drawn(count)
    starts, stops = corpus.finals.T
    assert (starts > 0).all()
    assert (starts < stops).all()
    assert (stops == corpus.lengths).all()
    assert count < 3 or (np.diff(corpus.lengths) < 0).any()


def test_a_corpus_file_is_read_in_order_and_begun_again(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"instruction": "one", "input": "", "output": "short"}\n'
        '{"instruction": "bad", "input": "", "output": ""}\n'
        '{"instruction": "two", "input": "", "output": "a somewhat longer answer"}\n'
    )
    corpus = corpora.find_corpus(5, file=file, tokenizer=tiny_model)
    first, second = corpus.lengths[:2]
    assert second > first
    assert corpus.lengths.tolist() == [first, second, first, second, first]
    assert corpora.find_corpus(0, file=file, tokenizer=tiny_model).lengths.tolist() == [first, second]


# --- the ways -----------------------------------------------------------------------------------------------------


def test_all_four_ways_give_the_same_vectors_and_the_tokens_they_compute_are_counted(
    small: tuple[Any, Path], rows: corpora.Corpus
) -> None:
    model, folder = small
    representer = Representer.load(folder, ways.last_token(SHAPE.block), dtype="float32", device="cpu")
    runs = {
        "a": lambda: ways.one_by_one(model, rows.input_ids, SHAPE.block),
        "b": lambda: ways.in_file_order(model.base_model, rows.input_ids, SHAPE.block),
        "c": lambda: ways.sorted_by_length(model.base_model, rows.input_ids, SHAPE.block),
        "d": lambda: ways.ours(representer, rows.input_ids, rows.finals, token_budget=512),
    }
    vectors, computed = {}, {}
    for name, run in runs.items():
        vectors[name], computed[name] = count_tokens(run, SHAPE.vocabulary)
    for name in "bcd":
        assert agreement(vectors["a"], vectors[name]).max < 1e-4, name

    lengths = rows.lengths
    batches = [lengths[start : start + 32] for start in (0, 32, 64)]
    descending = np.sort(lengths)[::-1]
    assert computed["a"] == lengths.sum()
    assert computed["b"] == sum(len(batch) * batch.max() for batch in batches)
    assert computed["c"] == sum(
        len(batch) * batch.max() for batch in (descending[:32], descending[32:64], descending[64:])
    )
    assert computed["d"] is not None
    assert lengths.sum() <= computed["d"] < computed["b"]


def test_other_vectors_do_not_agree(small: tuple[Any, Path], rows: corpora.Corpus) -> None:
    model, _ = small
    right = ways.one_by_one(model, rows.input_ids[:8], 2)
    wrong_block = ways.one_by_one(model, rows.input_ids[:8], 1)
    broken = right.copy()
    broken[3, 0] = np.nan
    for dtype in ("float32", "bfloat16"):
        require_agreement({"b": agreement(right, right)}, dtype)
        for other in (wrong_block, right[::-1], broken):
            with pytest.raises(SystemExit, match="not the same vectors"):
                require_agreement({"b": agreement(right, other)}, dtype)


def test_a_refused_row_is_an_error_and_not_a_faster_run(small: tuple[Any, Path]) -> None:
    representer = Representer.load(small[1], ways.last_token(0), dtype="float32", device="cpu")
    with pytest.raises(RuntimeError, match="bad_token_id"):
        ways.ours(representer, [np.array([SHAPE.vocabulary])], np.array([[0, 1]]))


def test_settings_go_to_load_unless_represent_has_them() -> None:
    load, represent = split_options(["attention=packed", "compile=true", "token_budget=512", "chunk=3"], None)
    assert load == {"attention": "packed", "compile": True, "chunk": 3}
    assert represent == {"token_budget": 512}
    with pytest.raises(SystemExit, match="KEY=VALUE"):
        split_options(["attention"], None)


# --- work and ceiling ---------------------------------------------------------------------------------------------


def test_work_is_that_of_the_real_tokens_counted_one_by_one(small: tuple[Any, Path]) -> None:
    model, lengths = small[0], np.array([3, 1, 5])
    head_width = SHAPE.width // SHAPE.heads
    kv = SHAPE.kv_heads * head_width
    attention_weights = 2 * SHAPE.width * SHAPE.width + 2 * SHAPE.width * kv
    mlp_weights = 3 * SHAPE.width * SHAPE.mlp
    standard = least = 0.0
    for block in range(3):
        for length in lengths:
            for token in range(length):
                seen = token + 1
                products = 2.0 * (attention_weights + mlp_weights)
                attention = seen * SHAPE.heads * head_width * 2.0 * 2  # scores, and the sum of values
                standard += products + attention
                if block < 2 or token == length - 1:
                    least += products + attention
                else:
                    least += 2.0 * 2 * SHAPE.width * kv
    work = models.work(model, lengths, block=2)
    assert work.standard == pytest.approx(standard)
    assert work.least == pytest.approx(least)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_kernel_of_the_ceiling_computes_the_products_it_is_counted_for(dtype: torch.dtype) -> None:
    shapes = {"q_proj": (16, 16), "k_proj": (16, 8), "v_proj": (16, 8), "gate_proj": (16, 24), "up_proj": (16, 24)}
    with torch.inference_mode():
        made = products(shapes, tokens=40, dtype=dtype, device=CPU)
        here = [product for product in made if product.tokens == 40]
        outputs = {product.name: [tuple(output.shape) for output in product.run()] for product in here}  # type: ignore[attr-defined]
        one_by_one = {name: shapes_ for name, shapes_ in outputs.items() if ", block, " in name and "fused" not in name}
        by_flops = {product.name: product.flops for product in here}
    assert any(name.startswith("linear") for name in one_by_one)
    assert any("mm into" in name for name in one_by_one)
    assert set(map(tuple, one_by_one.values())) == {((40, 16), (40, 8), (40, 8), (40, 24), (40, 24))}
    fused = {tuple(shapes_) for name, shapes_ in outputs.items() if "fused" in name}
    assert fused == {((40, 32), (40, 48))}
    assert {by_flops[name] for name in one_by_one} == {2.0 * 40 * 16 * 80}
    assert {flops for name, flops in by_flops.items() if "fused" in name} == {2.0 * 40 * 16 * 80}


def test_the_finalists_hold_the_plain_linear_at_the_batchs_tokens() -> None:
    made = products({"gate_proj": (8, 16), "down_proj": (16, 8)}, tokens=100, dtype=torch.float32, device=CPU)
    chosen = finalists([product for product in made if product.tokens in (100, 1024)], 100, CPU)
    assert len(chosen) == len(set(chosen))
    assert [product.name for product in chosen if product.plain and product.tokens == 100]
    assert all(product.tokens in (100, 1024) for product in chosen)


# --- the profile --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modules", "group"),
    [
        ("aten::mm", ["Linear", "LlamaMLP"], "matrix products"),
        ("aten::bmm", ["LlamaAttention"], "attention"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", ["LlamaAttention"], "attention"),
        ("aten::mul", ["LlamaRMSNorm", "LlamaDecoderLayer"], "norms"),
        ("aten::mul", ["LlamaAttention", "LlamaDecoderLayer"], "rotary"),
        ("aten::mul", ["LlamaMLP", "LlamaDecoderLayer"], "activation"),
        ("aten::silu", ["SiLUActivation", "LlamaMLP"], "activation"),
        ("aten::add", ["LlamaDecoderLayer"], "residual"),
        ("aten::copy_", ["LlamaRMSNorm"], "copies"),
        ("aten::add", [], "other"),
    ],
)
def test_operators_are_grouped_by_name_and_by_the_module_around_them(name: str, modules: list[str], group: str) -> None:
    assert group_of(name, modules) == group


def test_a_profile_accounts_for_the_run(small: tuple[Any, Path], rows: corpora.Corpus) -> None:
    model, _ = small
    shares = profiled(lambda: ways.sorted_by_length(model.base_model, rows.input_ids, 2), CPU)
    groups = shares["groups"]
    assert {"matrix products", "attention", "norms", "rotary", "activation", "residual"} <= set(groups)
    assert sum(groups.values()) == pytest.approx(shares["wall_seconds"], rel=0.5)


# --- losses and layers --------------------------------------------------------------------------------------------


def test_the_plain_losses_are_those_of_each_row_alone(small: tuple[Any, Path], rows: corpora.Corpus) -> None:
    model, folder = small
    ids, ranges = rows.input_ids[:19], token_losses.answers(rows.lengths[:19])
    losses = token_losses.plain(model, ids, ranges)
    ours = token_losses.ours(TokenLosses.load(folder, dtype="float32", device="cpu"), ids, ranges)
    for row, [(start, stop)], found, other in zip(ids, ranges, losses, ours, strict=True):
        tokens = torch.from_numpy(row)
        with torch.inference_mode():
            logits = model(tokens[None]).logits[0].double()
        expected = torch.nn.functional.cross_entropy(logits[start - 1 : stop - 1], tokens[start:stop], reduction="none")
        assert np.allclose(found, expected.numpy(), atol=1e-4)
        assert np.allclose(other, expected.numpy(), atol=1e-4)


def test_a_fifth_of_each_row_is_its_answer() -> None:
    assert token_losses.answers(np.array([2, 3, 10, 100])) == [[(1, 2)], [(2, 3)], [(8, 10)], [(80, 100)]]


def test_the_published_search_leaves_the_model_as_it_was_and_counts_what_tamis_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = layers.shipped_prompts()[:6]
    monkeypatch.setitem(models.SHAPES, "small16", replace(SHAPE, vocabulary=700))
    monkeypatch.setattr(layers, "REFUSING", 0.2)
    with torch.random.fork_rng():
        folder = layers.random_chat_model(tmp_path, prompts)
    model = models.load_full(folder, dtype=torch.float32, device=CPU)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ours = ScaledAnswers.load(folder, dtype="float32", device="cpu")
    ours.prepare(prompts)
    counts = []
    for cell in [(0, 0.7), (1, 1.3), (3, 1.3)]:
        counts.append(layers.published(model, tokenizer, cell, prompts))
        assert counts[-1] == ours.refusals(*cell)
    assert max(counts) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# --- without an installed tamis -----------------------------------------------------------------------------------


def test_operators_are_found_in_the_checkout_where_tamis_is_not_installed(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.meta_path = [finder for finder in sys.meta_path if 'editable' not in repr(finder).lower()]\n"
        "sys.path = [entry for entry in sys.path if 'editable' not in entry]\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('tamis') is None\n"
        "import checkout, tamis.operators.forward.batching as found\n"
        "import tamis.operators.methods.larf\n"
        "print(found.__file__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == BENCHMARKS.parent / "operators" / "forward" / "batching.py"
