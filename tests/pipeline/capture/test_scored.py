"""Scores from the corpus pass itself are those of the captured vectors: the workers' steps, called without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from plan_jobs import Planner, lines_of, rows_of

from tamis.operators.methods import METHODS as METHODS_OF
from tamis.operators.methods import Artifact
from tamis.operators.methods.protocol import CORPUS, reduce_in_process
from tamis.operators.requests import Request
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.chosen_rows import among_column, chosen_in, refused_column
from tamis.pipeline.capture.driver import Forward
from tamis.pipeline.capture.parcels import unpack
from tamis.pipeline.capture.scored import Scorer, ScoringSpec, scored_key
from tamis.pipeline.capture.spec import SCORED, STAGE, CaptureSpec, sample_column, score_column
from tamis.pipeline.capture.tokenise import PackedTokenizer, tokenise_shard
from tamis.pipeline.errors import ConfigError, DamagedError, from_facts
from tamis.pipeline.fit.reference_tests import _kept_rows
from tamis.pipeline.fit.scores import ScoreSpec, _score_one, read_features, save_artifacts
from tamis.pipeline.inputs.shards import Shard, role_of
from tamis.pipeline.models.handle import ModelHandle
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.recipes.samples import _scores_first
from tamis.pipeline.run import receipts
from tamis.pipeline.run.paths import stage_folder, table_of
from tamis.pipeline.storage.store import Sealed, Store

pytestmark = pytest.mark.usefixtures("one_thread")

METHODS = ("larf", "matching", "compliance", "csa")
ODD, ODD_ROW = "Ω", 35
"""A character of one row alone: its tokens can be made to spoil the model."""


@dataclass
class Bench:
    """Both ways through one plan. worked: called with each worker before it works."""

    plan: Plan
    store: Store
    model: Path
    worked: Callable[[Forward], None] = lambda worker: None

    def __post_init__(self) -> None:
        self.tokenizer = PackedTokenizer.pack(ChatTokenizer.load(str(self.model)))

    def spec(self, stage: str, key: str) -> CaptureSpec:
        return CaptureSpec(
            store=self.store, options={}, key=key, model=ModelHandle("tiny", str(self.model), None, device="cpu"),
            token_budget="auto", attention="padded", compile=False, exact=False, max_tokens=128, overlong="quarantine",
            columns=tuple(request.column for request in self.plan.requests), stage=stage,
        )  # fmt: skip

    def ran(self, worker: Forward, shards: Sequence[Shard]) -> list[dict[str, Any]]:
        self.worked(worker)
        parcels = [tokenise_shard(shard.to_json(), worker.spec, self.tokenizer) for shard in shards]
        return [json.loads(worker(parcel).column("receipt")[0].as_py()) for parcel in parcels]

    def vectors(self, shards: Sequence[Shard]) -> list[Sealed]:
        return [sealed(receipt) for receipt in self.ran(Forward(self.spec(STAGE, "k")), shards)]

    def fitted(self) -> tuple[dict[str, Artifact], list[Sealed]]:
        """Fitted to the references; a method that says so reads the corpus, too, as in a run before this one."""
        shards = self.plan.reference_shards
        by_role: dict[str, list[Any]] = {}
        for shard, file in zip(shards, self.vectors(shards), strict=True):
            by_role.setdefault(shard.role, []).append(read_features(self.store, file))
        artifacts = {}
        for name, method in self.plan.methods.items():
            sources = {source: by_role[role_of(name, source)] for source in method.sources()}
            if method.reads_corpus:
                sources[CORPUS] = [read_features(self.store, file) for file in self.vectors(self.plan.shards)]
            artifacts[name] = method.fit(reduce_in_process(sources), self.plan.model_info.blocks)
        files = save_artifacts(self.store, artifacts, {"key": "k"})
        return artifacts, [Sealed(file["name"], file["sha256"]) for file in files]

    def scorer(self, artifact: Sequence[Sealed], **changes: Any) -> Scorer:
        base = vars(self.spec(SCORED, scored_key("k", artifact)))
        return Scorer(ScoringSpec(**base, **{"methods": self.plan.methods, "artifact": tuple(artifact), **changes}))

    def fit_tables(self, artifacts: dict[str, Artifact], files: Sequence[Sealed], ready: bool) -> list[pa.Table]:
        """What the fit writes of each shard, with the sums over it."""
        spec = ScoreSpec(self.store, self.plan.methods, artifacts, "larf", None, 128, ready=ready)
        found = []
        for shard, file in zip(self.plan.shards, files, strict=True):
            sums = _score_one(shard.name, shard.file.name, shard.span.start_row, file, spec)
            facts = {"low": str(sums.low), "high": str(sums.high), "lengths": str(sums.lengths.tolist())}
            found.append(self.store.read_table(sums.files[0]).replace_schema_metadata(facts))
        return found

    def both_ways(self) -> tuple[list[pa.Table], list[pa.Table], list[dict[str, Any]]]:
        """By the vectors, by the scores, and the receipts of the scores."""
        artifacts, files = self.fitted()
        by_vectors = self.fit_tables(artifacts, self.vectors(self.plan.shards), ready=False)
        receipts_ = self.ran(self.scorer(files), self.plan.shards)
        return by_vectors, self.fit_tables(artifacts, [sealed(each) for each in receipts_], ready=True), receipts_


def sealed(receipt: dict[str, Any]) -> Sealed:
    return Sealed(receipt["file"]["name"], receipt["file"]["sha256"])


def out_of_memory_above(rows: int) -> Callable[[Forward], None]:
    def hook(module: Any, args: Any, kwargs: dict[str, torch.Tensor]) -> None:
        if len(kwargs["input_ids"]) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return lambda worker: worker.representer._model.register_forward_pre_hook(hook, with_kwargs=True) and None


def poisoned(bench: Bench) -> Callable[[Forward], None]:
    """Where ODD stands, the model's states are not finite."""
    spec = bench.spec(STAGE, "k")
    parcels = [tokenise_shard(shard.to_json(), spec, bench.tokenizer) for shard in bench.plan.shards]
    rows = [row for parcel in parcels for row in unpack(parcel)[1].column("input_ids").to_pylist()]
    [token, *_] = {*rows[ODD_ROW]} - {token for number, row in enumerate(rows) if number != ODD_ROW for token in row}

    def spoil(worker: Forward) -> None:
        worker.representer._model.get_input_embeddings().weight.data[token] = float("nan")

    return spoil


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Callable[..., Bench]:
    planner = Planner(tmp_path, tiny_model)
    rows = [*rows_of(20), {"prompt": "no answer", "response": ""}, *rows_of(9, 9), b"{broken", *rows_of(4, 1)]
    rows += [{"prompt": "question", "response": f"answer {ODD}"}, {"prompt": "p", "response": "word " * 300}]
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows))
    # Answers that differ from set to set, so that there is a direction between them.
    (tmp_path / "safe.jsonl").write_bytes(lines_of([{"prompt": f"question {i}", "response": "no"} for i in range(3)]))

    def made(shard_rows: int, methods: Sequence[str] = METHODS) -> Bench:
        roles = {
            f"{name}.{role}_references": str(tmp_path / f"{role}.jsonl")
            for name in methods
            for role in ("unsafe", "safe")
            if role in METHODS_OF[name].references
        }
        overlay = {"method": list(methods), "larf.layer": 1, "max_quarantined": 0.9, **roles}
        plan = planner(f"shard_rows={shard_rows}", **overlay)
        return Bench(plan, Store(str(tmp_path / f"out-{shard_rows}")), tiny_model)

    return made


def test_an_artifact_is_applied_also_of_methods_that_read_the_corpus(bench: Callable[..., Bench]) -> None:
    """As a job with `artifact` does: everything is fitted before its corpus is read."""
    by_vectors, by_scores, _ = bench(10, ("larf", "saft", "contrast")).both_ways()
    for vectors, scores in zip(by_vectors, by_scores, strict=True):
        assert scores.equals(vectors, check_metadata=True)
        assert scores.column_names == ["larf", "saft", "contrast", "deciding", "n_response_tokens"]


@pytest.mark.parametrize("shard_rows", [1000, 7, 1])
def test_the_scores_are_those_of_the_vectors_to_the_bit(bench: Callable[..., Bench], shard_rows: int) -> None:
    """Also of shards in which no row can be used."""
    by_vectors, by_scores, _ = bench(shard_rows).both_ways()
    for vectors, scores in zip(by_vectors, by_scores, strict=True):
        assert scores.equals(vectors, check_metadata=True)
    all_scores = pa.concat_tables(table.replace_schema_metadata(None) for table in by_scores)
    assert all_scores.column("larf").null_count == 3
    assert len({*all_scores.column("compliance").drop_null().to_pylist()}) > 10


def test_rows_whose_states_are_not_finite_have_no_score(bench: Callable[..., Bench]) -> None:
    made = bench(10)
    made.worked = poisoned(made)
    by_vectors, by_scores, found = made.both_ways()
    assert sum((receipt["quarantined"].get("non_finite", 0) for receipt in found), 0) == 1
    for vectors, scores in zip(by_vectors, by_scores, strict=True):
        assert scores.equals(vectors, check_metadata=True)


def test_batches_that_are_halved_give_the_same_scores(bench: Callable[..., Bench]) -> None:
    made = bench(1000)
    usual, _, _ = made.both_ways()
    made.worked = out_of_memory_above(2)
    by_vectors, by_scores, found = made.both_ways()
    assert [receipt["quarantined"].get("forward_failed") for receipt in found] == [None] * len(found)
    for vectors, scores, whole in zip(by_vectors, by_scores, usual, strict=True):
        assert scores.equals(vectors, check_metadata=True)
        for name in METHODS:
            a, b = (np.array(table.column(name).to_pylist(), dtype=float) for table in (scores, whole))
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_table_of_scores_holds_no_vector(bench: Callable[..., Bench]) -> None:
    made = bench(1000)
    _, files = made.fitted()
    receipt = made.ran(made.scorer(files), made.plan.shards[:1])[0]
    name = table_of(stage_folder(SCORED), made.plan.shards[0].name)
    assert receipt["file"]["name"] == name
    schema = made.store.read_table(name).schema
    numbers = [field.name for field in schema if pa.types.is_floating(field.type)]
    assert numbers == [score_column(method) for method in METHODS]
    assert not any(pa.types.is_nested(field.type) for field in schema)
    # A reader of vectors does not find it.
    shards = made.plan.shards[:1]
    assert list(receipts.done(made.store, STAGE, shards, "k")) == []
    assert len(list(receipts.done(made.store, SCORED, shards, scored_key("k", files)))) == 1


def test_a_run_that_has_begun_with_vectors_goes_on_with_them(
    bench: Callable[..., Bench], capfd: pytest.CaptureFixture[str]
) -> None:
    made = bench(10)
    wanted = replace(made.plan, job=made.plan.job.model_copy(update={"keep_captures": "scores"}))
    made.vectors(made.plan.reference_shards)  # these are captured in both orders
    assert _scores_first(wanted, made.store, "k")
    made.vectors(made.plan.shards[2:3])
    assert _scores_first(wanted, made.store, "of other settings")
    assert capfd.readouterr().err.count("goes on with vectors") == 0
    assert not _scores_first(wanted, made.store, "k")
    assert capfd.readouterr().err.count("capture: goes on with vectors, as an earlier command has begun") == 1
    assert not _scores_first(made.plan, made.store, "of other settings")


@pytest.mark.parametrize("sampled", [1, 4, 1000])
def test_some_rows_keep_their_vectors_for_the_test_of_the_methods(bench: Callable[..., Bench], sampled: int) -> None:
    made = bench(7)
    _, files = made.fitted()
    vectors = made.vectors(made.plan.shards)
    scored = [sealed(receipt) for receipt in made.ran(made.scorer(files, sampled=sampled), made.plan.shards)]
    columns = [request.column for request in made.plan.requests]
    for all_of_them, few in zip(vectors, scored, strict=True):
        whole, table = made.store.read_table(all_of_them), made.store.read_table(few)
        usable = whole.column("code").is_null().to_numpy().sum()
        for column in columns:
            kept = table.column(sample_column(column)).to_pylist()
            expected = whole.column(column).to_pylist()
            assert sum(vector is not None for vector in kept) == min(sampled, usable)
            assert all(vector is None or vector == full for vector, full in zip(kept, expected, strict=True))
        rows = _kept_rows([few], made.store, columns)
        assert len(rows) == min(sampled, usable)
        assert set(rows.lengths) <= set(whole.column("n_response_tokens").to_pylist())
    every = _kept_rows(scored, made.store, columns)
    assert len(every) == sum(len(_kept_rows([few], made.store, columns)) for few in scored)
    assert all(every.features[column].shape == (len(every), 32) for column in columns)


def test_references_are_rendered_as_the_corpus_is(tmp_path: Path, tiny_model: Path) -> None:
    """Also where a conversation has a system prompt: the authors of CSA render references without it."""
    turns = [("system", "Be brief."), ("user", "How?"), ("assistant", "So: {}.")]
    rows = [[{"role": role, "content": text.format(n)} for role, text in turns] for n in range(3)]
    planner = Planner(tmp_path, tiny_model)
    for name, first in (("data/a.jsonl", 0), ("unsafe.jsonl", 0), ("safe.jsonl", 1)):
        (tmp_path / name).write_bytes(lines_of([{"messages": row[first:]} for row in rows]))
    sets = {f"csa.{role}_references": str(tmp_path / f"{role}.jsonl") for role in ("unsafe", "safe")}
    made = Bench(planner(method="csa", **sets), Store(str(tmp_path / "out")), tiny_model)
    tokens = {}
    for shard in [*made.plan.shards, *made.plan.reference_shards]:
        parcel = tokenise_shard(shard.to_json(), made.spec(STAGE, "k"), made.tokenizer)
        tokens[shard.role] = unpack(parcel)[1].column("input_ids").to_pylist()
    assert tokens["corpus"] == tokens["csa.unsafe"]
    without = tokens["csa.safe"]  # the same without the system prompt
    assert all(len(a) > len(b) for a, b in zip(tokens["corpus"], without, strict=True))


def test_scores_of_another_fit_do_not_count(bench: Callable[..., Bench]) -> None:
    made = bench(1000)
    artifacts, files = made.fitted()
    made.ran(made.scorer(files), made.plan.shards)
    again = save_artifacts(made.store, artifacts, {"key": "k"})
    assert scored_key("k", [Sealed(file["name"], file["sha256"]) for file in again]) == scored_key("k", files)
    other = artifacts["larf"].arrays["direction"].copy()
    other[0] = np.nextafter(other[0], np.float32(np.inf))
    artifacts["larf"].arrays["direction"] = other
    others = [Sealed(file["name"], file["sha256"]) for file in save_artifacts(made.store, artifacts, {"key": "k"})]
    assert list(receipts.done(made.store, SCORED, made.plan.shards, scored_key("k", others))) == []


def test_a_damaged_artifact_stops_the_worker(bench: Callable[..., Bench]) -> None:
    made = bench(1000)
    _, files = made.fitted()
    made.store.write("artifact/larf.safetensors", b"other")
    worker = made.scorer(files)
    said = json.loads(
        worker(tokenise_shard(made.plan.shards[0].to_json(), worker.spec, made.tokenizer))["receipt"][0].as_py()
    )
    error = from_facts(said["error"])
    assert isinstance(error, DamagedError)
    assert error.name == "artifact/larf.safetensors"


def test_a_score_that_is_no_number_is_an_error_that_names_the_method(bench: Callable[..., Bench]) -> None:
    made = bench(1000)
    artifacts, _ = made.fitted()
    artifacts["compliance"].arrays["direction"] *= 1e300
    files = [Sealed(file["name"], file["sha256"]) for file in save_artifacts(made.store, artifacts, {"key": "k"})]
    worker = made.scorer(files)
    parcel = tokenise_shard(made.plan.shards[0].to_json(), worker.spec, made.tokenizer)
    with pytest.raises(ConfigError, match="compliance: a score is too large for float32"):
        worker(parcel)


def test_the_corpus_is_no_source_of_these_methods(bench: Callable[..., Bench]) -> None:
    assert all(not method.reads_corpus and CORPUS not in method.sources() for method in bench(9).plan.methods.values())


def test_requests_of_some_rows_are_kept_and_change_nothing(bench: Callable[..., Bench], tmp_path: Path) -> None:
    """Of refusing answers and of a sample, in both orders; of references, of all. No row is set aside for them."""
    rows = [*rows_of(5), {"prompt": "how?", "response": "I can\u2019t help. " + "x " * 9}, *rows_of(3)]
    rows += [{"prompt": "why?", "response": "x " * 120 + "sorry"}, {"prompt": "p", "response": "Sorry, no."}]
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows))
    made = bench(1000, ("larf",))
    request = Request(1, "last_prompt_token")
    _, files = made.fitted()
    usual = replace(made.spec(STAGE, "k"), overlong="keep_end", max_tokens=100)
    wanted = replace(usual, columns=(*usual.columns, request.column))

    def table(worker: Forward, shard: Shard) -> pa.Table:
        return made.store.read_table(sealed(made.ran(worker, [shard])[0]))

    [corpus] = made.plan.shards
    plain, whole = table(Forward(usual), corpus), table(Forward(wanted), corpus)
    aside = {"aside": request.column, "among": 3}
    found = table(Forward(replace(usual, **aside)), corpus)
    assert found.select(plain.column_names).equals(plain)
    base = {**vars(replace(usual, stage=SCORED)), **aside}
    scored = table(Scorer(ScoringSpec(**base, methods=made.plan.methods, artifact=tuple(files))), corpus)
    every = whole.column(request.column).to_pylist()
    for each in (found, scored):
        for column, places in ((refused_column(request.column), [5, 10]), (among_column(request.column), [1, 5, 8])):
            got, vectors = chosen_in(each.column(column))
            assert got.tolist() == places
            np.testing.assert_allclose(vectors, [every[place] for place in places], rtol=1e-5, atol=1e-6)
    assert plain.column("code").null_count == len(rows)
    assert whole.column("code").to_pylist()[9] == "prompt_cut"
    references = table(Forward(replace(usual, **aside)), made.plan.reference_shards[0])
    assert chosen_in(references.column(refused_column(request.column)))[0].tolist() == list(range(references.num_rows))
