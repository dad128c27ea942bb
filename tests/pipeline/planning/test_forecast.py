"""What a plan says of a run beyond the plan: what it asks for, what it writes, how long it takes. All in text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plan_jobs import Planner, larf, lines_of, rows_of
from rich.console import Console

from tamis.pipeline.cluster.machines import Cluster, Machine
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.commands.screens import show_plan
from tamis.pipeline.errors import ClusterError, ConfigError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning import elsewhere, rough
from tamis.pipeline.planning.elsewhere import asked_pool, placed_without_cluster
from tamis.pipeline.planning.forecast import asks, clock, foretold, time
from tamis.pipeline.planning.placement import HERE, placed
from tamis.pipeline.planning.plan import Plan, make_plan
from tamis.pipeline.planning.rates import Rate
from tamis.pipeline.run.set_aside import set_aside
from tamis.pipeline.storage.store import Store

GPU = ("model.gpus_per_worker=1",)
LAPTOP = Cluster(HERE, (Machine(2.0),))


@pytest.fixture
def plan(tmp_path: Path, tiny_model: Path) -> Planner:
    return Planner(tmp_path, tiny_model)


@pytest.fixture
def fifty(plan: Planner) -> Plan:
    return plan("shard_rows=1")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `plan` finds them on a machine without a GPU."""
    monkeypatch.setattr(elsewhere, "this_machine", lambda: LAPTOP)


def text(made: Plan) -> str:
    """The plan as a person reads it, on one line."""
    console = Console(width=400, file=io.StringIO())
    show_plan(console, made, "new")
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def told(made: Plan, rate: str | None = None) -> str:
    return text(foretold(placed_without_cluster(made), rate))


# --- a cluster that is not here -----------------------------------------------------------------------------------


def test_a_job_that_names_workers_and_gpus_is_planned_by_these_numbers(plan: Planner) -> None:
    said = told(plan("workers=8", *GPU))
    assert "workers 8 workers, one a GPU, on a cluster that is not here; 8 readers at most" in said
    assert "a worker, in bfloat16; how large its GPUs are is not known here" in said
    assert "asks for 8 GPUs, 1 a worker; at most 1 CPU for each worker and each of 8 readers, 16 in all" in said
    assert (
        "warning: no cluster was asked (--address), so this is planned by workers and model.gpus_per_worker alone; "
        "started on this machine, the job would have 8 workers on the CPUs of 1 node"
    ) in said


def test_the_example_for_eight_gpus(plan: Planner) -> None:
    """deploy/jobs/larf-8-gpus.yaml, over a file and a model that are here."""
    here = {"input": plan.job["input"], "output": plan.job["output"], "model.name": plan.job["model"]}
    job = load_job(str(Path(__file__).parents[3] / "deploy/jobs/larf-8-gpus.yaml"), {**here, "larf.layer": "fisher"})
    said = told(make_plan(job), "0.05")
    for words in (
        "workers 1 to 8 workers, one a GPU, on a cluster that is not here; 8 readers at most",
        "asks for 1 to 8 GPUs, 1 a worker; at most 1 CPU for each worker and each of 8 readers, 16 in all",
        "a worker, in bfloat16",
        "of vectors under _work, removed at the end",
        " h 20 min on 8 workers, 9 h 20 min on 1 worker (with 1 shard, no more than that many have work)",
        "Not in it: the start of Ray and of the workers, the search for LARF's block, the fit, the output",
        "the job would have 1 to 8 workers, one a GPU; none fit now, the rest as nodes come",
    ):
        assert words in said, words


def test_a_range_of_workers(plan: Planner) -> None:
    said = told(plan("workers={min: 1, max: 8}", *GPU, "model.device=cuda"), rate="1000")
    assert "1 to 8 workers, one a GPU, on a cluster that is not here" in said
    assert "asks for 1 to 8 GPUs, 1 a worker" in said
    assert "on 8 workers, " in said
    assert "on 1 worker (with 1 shard, no more than that many have work): 1,680 tokens" in said


def test_a_job_that_would_end_here_says_so(plan: Planner) -> None:
    said = told(plan("workers=8", "model.device=cuda"))
    assert "8 workers, one a GPU, on a cluster that is not here" in said
    assert "started on this machine, the job would end: model.device is cuda and the cluster has no GPU" in said


@pytest.mark.parametrize(
    "sets", [("workers=2",), ("model.gpus_per_worker=1",), ("workers=2", "model.device=cpu", *GPU)]
)
def test_other_jobs_are_planned_for_this_machine(plan: Planner, sets: tuple[str, ...]) -> None:
    said = told(plan(*sets))
    assert "not here" not in said
    assert "on the CPUs of 1 node" in said


def test_without_a_number_of_workers_cuda_is_refused_as_before(plan: Planner) -> None:
    with pytest.raises(ClusterError, match="the cluster has no GPU"):
        placed_without_cluster(plan("model.device=cuda"))


@pytest.mark.parametrize(("gpus", "workers", "elsewhere_"), [(8, 8, False), (8, 9, True), (0, 1, True)])
def test_gpus_that_are_here_are_used(plan: Planner, gpus: float, workers: int, elsewhere_: bool) -> None:
    job = plan(f"workers={workers}", *GPU).job
    found = asked_pool(job, Cluster("here", (Machine(16.0, gpus),)))
    assert (found is not None) == elsewhere_


@pytest.mark.parametrize(
    ("workers", "share", "gpus"), [(8, 1.0, "8 GPUs, 1 "), (8, 0.5, "4 GPUs, 0.5 "), (5, 0.5, "3 GPUs"),
                                   (3, 0.6, "3 GPUs, 0.6 "), (2, 4.0, "8 GPUs, 4 "), (1, 1.0, "1 GPU, 1 ")],
)  # fmt: skip
def test_how_many_gpus_all_workers_take(workers: int, share: float, gpus: str) -> None:
    pool = Pool(workers, 0.25, share, None, 1.0)
    assert asks(pool, 3, workers).startswith(gpus)


# --- what is written ----------------------------------------------------------------------------------------------


def test_vectors_are_counted_by_arithmetic(plan: Planner, tmp_path: Path) -> None:
    made = plan(**larf(tmp_path) | {"method": ["larf", "saft"]})
    width, requests = made.model_info.width, len(made.requests)
    assert requests == 2
    wanted = f"writes about {50 * 2 * width * 4 / 1e6:.1f} MB of vectors under _work, removed at the end; the 50 rows"
    assert wanted in told(made)
    assert "removed at the end" not in told(plan("keep_captures=true"))


def test_the_block_that_is_still_to_be_found_counts(plan: Planner, tmp_path: Path) -> None:
    made = plan(**larf(tmp_path) | {"larf.layer": "fisher"})
    assert f"about {50 * made.model_info.width * 4 / 1e6:.1f} MB of vectors" in told(made)
    assert "Not in it: the start of Ray and of the workers, the search for LARF's block," in told(made, "10")


# --- how long -----------------------------------------------------------------------------------------------------


def test_a_given_rate(plan: Planner) -> None:
    made = plan()
    tokens = made.estimate.tokens_per_row * 50
    made = replace(made, estimate=replace(made.estimate, computed_per_row=made.estimate.tokens_per_row))
    said = told(made, "0.1")
    hours = tokens / 0.1 / 3600
    assert f"time about {int(hours)} h" in said
    assert f"{tokens:,.0f} tokens at 0.1 a second and worker" in said
    assert "(given by --rate). Not in it: the start of Ray and of the workers, the fit," in said


def test_without_a_rate_the_assumption_is_named(plan: Planner) -> None:
    said = told(plan())
    assert "time about 1 s on 1 worker" in said
    assert "(roughly: 60 GFLOP/s on 2 threads a worker are assumed, not measured, and " in said
    assert "; give --rate TOKENS_PER_SECOND of one worker, its operations as --rate 400TFLOPS, or --rate OUT" in said


@pytest.mark.parametrize("rate", ["0", "-5", "nan", "inf"])
def test_a_rate_must_be_a_number_above_0(plan: Planner, rate: str) -> None:
    with pytest.raises(ConfigError, match=r"--rate: .* above 0"):
        told(plan(), rate)


def test_a_rate_that_is_no_run_either(plan: Planner, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a number of tokens a second nor the output of a finished run"):
        told(plan(), str(tmp_path / "nothing"))


def test_workers_share_the_tokens(plan: Planner) -> None:
    one, eight = (plan(f"workers={n}", *GPU, "shard_rows=1") for n in (1, 8))
    one, eight = (replace(made, shards=made.shards[:48]) for made in (one, eight))
    rate = f"{one.estimate.computed_per_row * 48 / 8 / 3600:.12f}"  # 8 hours for one worker
    assert "time about 8 h 00 min on 1 worker" in told(one, rate)
    assert "time about 1 h 00 min on 8 workers" in told(eight, rate)


@given(shards=st.integers(1, 50), workers=st.integers(1, 60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_no_two_workers_share_a_shard(fifty: Plan, shards: int, workers: int) -> None:
    """Against a simulation: a worker that is free takes the next shard."""
    made = replace(fifty, shards=fifty.shards[:shards], estimate=replace(fifty.estimate, computed_per_row=1.0))
    said = time(made, Pool(workers, 1.0, 0.0, 1, 1.0), Rate(1 / 3600, "given"))  # a shard an hour
    free = [0] * workers
    for _ in range(shards):
        free[free.index(min(free))] += 1
    assert said.startswith(f"about {clock(max(free) * 3600)} on {workers} worker")
    assert (f"(with {shards} shard" in said) == (shards < workers)


def test_rows_that_are_not_computed_take_no_time(plan: Planner, tmp_path: Path) -> None:
    long = {"prompt": "q", "response": "word " * 300}
    (tmp_path / "data/a.jsonl").write_bytes(lines_of([*rows_of(8), long, {"prompt": "no answer"}]))
    sets = ("max_tokens=60", "max_quarantined=0.9")
    aside, cut = (plan(*sets, f"overlong={way}").estimate for way in ("quarantine", "keep_end"))
    assert aside.computed_per_row < cut.computed_per_row < cut.tokens_per_row
    assert cut.computed_per_row * 10 == pytest.approx(aside.computed_per_row * 10 + 60)


def test_a_corpus_of_bad_rows_has_no_time(plan: Planner) -> None:
    made = plan()
    made = replace(made, estimate=replace(made.estimate, computed_per_row=0.0))
    assert "time not known: no sampled row has tokens" in told(made, "10")


def test_a_run_that_was_begun_is_forecast_as_a_whole(plan: Planner) -> None:
    said = foretold(placed_without_cluster(plan()), "10", begun=True).forecast
    assert all(text.endswith("; all of the run, with what is done already") for text in said.values())
    assert "done already" not in told(plan(), "10")


# --- measured before ----------------------------------------------------------------------------------------------

Earlier = Callable[..., str]


@pytest.fixture
def earlier(plan: Planner, tmp_path: Path) -> Earlier:
    """Writes the manifest of a run that this plan's job might have been, and gives its folder."""

    def write(timing: Mapping[str, Any] | None = None, **changes: Any) -> str:
        made = plan()
        took = {"seconds": 10.0, "tokens_per_second": 200.0, "forward_seconds": 20.0, "wall_seconds": 12.0}
        took |= {"gpus_per_worker": 0.0, "threads": 2.0}
        facts = {
            "fingerprint": dict(made.fingerprint),
            "job": {"method": ["saft"]},
            "methods": [{"layer": max(request.block for request in made.requests)}],
            "timings": {"plan": {"seconds": 1.0}, "capture": took if timing is None else dict(timing)},
            **changes,
        }
        Store(str(tmp_path / "before")).write_facts("manifest.json", facts)
        return str(tmp_path / "before")

    return write


def test_the_rate_of_an_earlier_run(plan: Planner, earlier: Earlier) -> None:
    """Two workers were busy for 20 seconds together with 2,000 tokens: 100 a second and worker."""
    where = earlier()
    assert f"tokens at 100 a second and worker (measured by the run in {where}, on its machines)" in told(plan(), where)


def test_the_rate_of_a_run_that_read_several_blocks(plan: Planner, earlier: Earlier) -> None:
    several = {"layer": None, "facts": {"blocks": [0, 1, 2]}}
    assert "measured by the run in" in told(plan("saft.layer=2"), earlier(methods=[several]))
    said = told(plan("saft.layer=1"), earlier(methods=[several, {"layer": 1}]))
    assert "it ran the blocks up to 2, this one up to 1" in said


def test_a_run_of_something_else_tells_nothing(plan: Planner, earlier: Earlier, tmp_path: Path) -> None:
    where = earlier()
    for made, why in (
        (plan("saft.layer=0"), "it ran the blocks up to"),
        (plan("model.dtype=bfloat16"), "another model.dtype"),
        (plan("model.exact=true"), "another model.exact"),
        (plan("workers=8", *GPU), "no GPU a worker, here 1 GPU"),
        (plan("workers=2"), "2 threads a worker, here 1"),
        (plan(**larf(tmp_path) | {"larf.layer": "fisher"}), "which block this one reads is not known yet"),
        (plan(method="toss", **{"toss.utility_references": str(tmp_path / "safe.jsonl")}), "it ran saft"),
    ):
        said = told(made, where)
        assert "time not known: the run in" in said, why
        assert why in said


@pytest.mark.parametrize(
    "changes",
    [
        {"timings": {"capture": {"seconds": 1.0, "tokens_per_second": 5.0, "forward_seconds": 1.0}}},
        {"timings": {"plan": {"seconds": 1.0}}},
        {"methods": [{"layer": None}]},
        {"methods": []},
    ],
)
def test_a_manifest_that_does_not_tell(plan: Planner, earlier: Earlier, changes: dict[str, Any]) -> None:
    said = told(plan(), earlier(**changes))
    assert "time not known: the manifest in" in said


def test_a_run_whose_last_command_captured_nothing(plan: Planner, earlier: Earlier) -> None:
    nothing = {"seconds": 0.0, "tokens_per_second": 0.0, "forward_seconds": 0.0, "gpus_per_worker": 0.0, "threads": 2.0}
    assert "captured nothing" in told(plan(), earlier(nothing))


def test_a_manifest_of_another_program_is_refused(plan: Planner, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"name": "a page"}))
    with pytest.raises(ConfigError, match="was not written by tamis"):
        told(plan(), str(tmp_path))


# --- the clock ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (1, "1 s"), (59.4, "59 s"), (59.5, "1 min"), (3599, "1 h 00 min"), (18_720, "5 h 12 min"),
     (86_399, "1 d 0 h"), (86_400 * 1000 + 3600, "1,000 d 1 h")],
)  # fmt: skip
def test_a_duration(seconds: float, said: str) -> None:
    assert clock(seconds) == said


@given(st.floats(1.0, 1e9))
def test_a_duration_is_right_to_one_unit(seconds: float) -> None:
    units = {"d": 86_400, "h": 3600, "min": 60, "s": 1}
    words = clock(seconds).replace(",", "").split()
    found = sum(int(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
    assert abs(found - seconds) <= units[words[-1]]


def test_a_cluster_that_is_there_is_taken_as_it_is(plan: Planner) -> None:
    made = placed(plan("workers=2", *GPU), Cluster(HERE, (Machine(8.0, 4.0),)))
    said = text(foretold(made, "1"))
    assert "2 workers, one a GPU, on 1 node" in said
    assert "asks for 2 GPUs, 1 a worker" in said
    assert "not here" not in said


# --- the rows of a plan -------------------------------------------------------------------------------------------


def test_the_rows_are_counted_anew_where_shards_are_left_out(fifty: Plan) -> None:
    """They are counted once a plan; a plan of other shards is another one."""
    assert fifty.rows == 50
    assert replace(fifty, shards=fifty.shards[:7]).rows == 7
    left = fifty.without([set_aside(fifty.shards[0], "too large")])
    assert (left.rows, left.rows_in, fifty.rows) == (49, 50, 50)


# --- a rough rate -------------------------------------------------------------------------------------------------


def test_operations_of_a_token_are_those_of_the_blocks_that_are_read(plan: Planner, tmp_path: Path) -> None:
    """Against the formula of benchmarks/cost_model.py, over the matrices of this Llama, counted by hand."""
    made = plan("saft.layer=1")
    width, context = made.model_info.width, made.estimate.tokens_per_row
    head = width // 4
    matrices = 2 * width * width + 2 * width * head * 2 + 3 * width * 2 * width  # q, o; k, v of 2 heads; the MLP
    norms = 2 * width
    each, of = rough.operations(made)
    assert each == pytest.approx(2 * (2 * (matrices + norms) + 2 * width * context), rel=0.03)
    assert "in 2 blocks" in of
    deeper, _ = rough.operations(plan("saft.layer=3"))
    assert deeper > 1.8 * each
    # Without the files of the model, its size is assumed.
    unknown, of = rough.operations(replace(made, parameters=None))
    assert unknown == 2 * 2 * 12 * width**2 + 2 * width * context * 2
    assert of == f"2 blocks of 12 x {width} x {width} weights"
    masked = plan(method="toss", **{"toss.utility_references": str(tmp_path / "safe.jsonl")})
    assert rough.operations(masked)[0] > 2 * each
    assert "under two models" in rough.operations(masked)[1]


@pytest.mark.parametrize(
    ("share", "dtype", "words"),
    [(1.0, "auto", "100 TFLOP/s a worker in bfloat16"), (0.5, "auto", "50 TFLOP/s"), (4.0, "auto", "100 TFLOP/s"),
     (1.0, "float32", "25 TFLOP/s a worker in float32")],
)  # fmt: skip
def test_what_is_assumed_of_a_gpu(plan: Planner, share: float, dtype: str, words: str) -> None:
    made = plan("workers=2", f"model.gpus_per_worker={share}", f"model.dtype={dtype}")
    said = told(made)
    assert f"(roughly: {words}" in said
    assert "are assumed, not measured" in said


def test_operations_may_be_stated(plan: Planner) -> None:
    made = plan()
    each, _ = rough.operations(made)
    tokens = made.estimate.computed_per_row * 50
    for rate, a_second in (("2e3 GFLOPS", 2e12), ("2TFLOPS", 2e12), ("2 tflop/s", 2e12), ("0.5TFLOPS", 5e11)):
        said = told(made, rate)
        assert f"about {clock(tokens * each / a_second)} on 1 worker" in said
        assert "FLOP/s of a worker, given by --rate)" in said
        assert "assumed" not in said.partition("memory")[0]
    with pytest.raises(ConfigError, match=r"--rate: 0TFLOPS is no number above 0"):
        told(made, "0TFLOPS")


def test_memory_grows_with_the_batch_and_the_shards(plan: Planner) -> None:
    made = plan("model.token_budget=10000")
    width = made.model_info.width
    said = foretold(placed_without_cluster(made), "1").forecast["memory"]
    assert f"{10_000 * 16 * width * 4 / 1e6:.1f} MB for batches of 10,000 tokens" in said
    assert said.startswith("the driver about 0.7 GB (as measured in docs/scale.md); each worker ")
    many = replace(made, shards=made.shards * 100_000)
    assert "the driver about 1.5 GB" in rough.memory(many, placed_without_cluster(made).placement.pool)  # type: ignore[union-attr, arg-type]
