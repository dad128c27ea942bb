"""The plan: what will be done, and what would fail."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plan_jobs import Planner, larf, lines_of, rows_of
from rich.console import Console

from tamis.operators.methods import METHODS, Artifact, Features, Method, Reduce, Saft
from tamis.operators.requests import Request
from tamis.pipeline.commands.screens import show_plan
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.job import job_file, methods
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import short_timeout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def plan(folder: Path, tiny_model: Path) -> Planner:
    return Planner(folder, tiny_model)


# --- what will be done --------------------------------------------------------------------------------------------


def test_a_plan(plan: Planner, folder: Path, tiny_model: Path) -> None:
    pq.write_table(pa.Table.from_pylist(rows_of(30)), folder / "data/b.parquet")
    made = plan("shard_rows=20")
    assert [(item.file.name, item.rows) for item in made.files] == [("a.jsonl", 50), ("b.parquet", 30)]
    assert made.rows == 80
    assert made.bytes == sum((folder / "data" / name).stat().st_size for name in ("a.jsonl", "b.parquet"))
    assert [shard.rows for shard in made.shards] == [20, 20, 10, 20, 10]
    assert [shard.index for shard in made.shards] == [0, 1, 2, 3, 4]
    assert made.reference_shards == ()
    assert made.requests == (Request(2, "last_token"),)
    assert (made.model.path, made.model.revision) == (str(tiny_model), "local")
    assert (made.model_info.blocks, made.model_info.width) == (4, 32)
    assert made.schema is not None
    assert made.schema.names == ["prompt", "response"]
    assert not made.will_fail
    assert made.warnings == ()
    assert not (folder / "out").exists()  # a plan writes nothing


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ({"meta": {"a": 1}}, {"meta": {"b": 1}}, "meta"),
        ({"meta": [1, 2]}, {"meta": {"b": 1}}, "meta"),
        ({"meta": {"a": [{"x": 1}]}}, {"meta": {"a": [{"y": 1}]}}, "meta"),
        ({"meta": {"a": 1}}, {"meta": {"a": 2}}, None),
        ({"meta": 1}, {"meta": None}, None),
        ({"meta": 1}, {}, None),
    ],
)
def test_what_will_be_json_text_is_said(
    first: dict[str, Any], second: dict[str, Any], named: str | None, plan: Planner, folder: Path
) -> None:
    rows = [{**row, **(second if number % 2 else first)} for number, row in enumerate(rows_of(20))]
    (folder / "data/a.jsonl").write_bytes(lines_of(rows))
    said = [note for note in plan().notes if "JSON text in kept/" in note]
    assert bool(said) == (named is not None)
    assert all(note.endswith(f"rows: {named}") for note in said)


def test_both_methods_capture_once(plan: Planner, folder: Path) -> None:
    made = plan("saft.layer=1", **{**larf(folder), "method": ["larf", "saft"]})
    assert made.requests == (Request(1, "last_token"),)
    made = plan("saft.layer=3", "saft.position=response_mean", **{**larf(folder), "method": ["saft", "larf"]})
    assert list(made.methods) == ["saft", "larf"]
    assert made.requests == (Request(1, "last_token"), Request(3, "response_mean"))


def test_a_layer_that_is_to_be_found(plan: Planner, folder: Path) -> None:
    (folder / "prompts.jsonl").write_bytes(lines_of([{"prompt": "How do I kill a process?"}] * 3))
    asked = {**larf(folder), "larf.over_rejection_prompts": str(folder / "prompts.jsonl")}
    named = plan(**asked)
    assert (named.layers, named.unsettled) == (None, False)
    auto = plan("saft.layer=3", **{**asked, "larf.layer": "auto", "method": ["larf", "saft"]})
    assert auto.unsettled
    assert auto.requests == (Request(3, "last_token"),)  # LARF's is not known yet
    assert auto.layers is not None
    assert auto.layers.prompts is not None
    assert len(auto.layers.prompts.texts) == 3
    assert auto.layers.references == auto.reference_shards
    assert auto.fingerprint["larf.layer"] == "auto"
    # The Fisher ratios choose where the search finds nothing, so the block depends on both.
    assert {**auto.layers.search_keys, **auto.layers.fisher_keys}.items() <= auto.fingerprint.items()
    settled = auto.with_layer(2, "search")
    assert not settled.unsettled
    assert settled.requests == (Request(2, "last_token"), Request(3, "last_token"))
    assert settled.larf is not None
    assert (settled.larf.layer, settled.larf.layer_chosen) == (2, "search")
    assert settled.fingerprint == auto.fingerprint
    fisher = plan(**{**asked, "larf.layer": "fisher"})
    assert fisher.unsettled
    assert fisher.layers is not None
    assert fisher.layers.prompts is None
    assert "larf.over_rejection_prompts" not in fisher.fingerprint


def test_prompts_are_looked_at_before_the_search(plan: Planner, folder: Path) -> None:
    path = folder / "prompts.jsonl"
    asked = {**larf(folder), "larf.layer": "auto", "larf.over_rejection_prompts": str(path)}
    with pytest.raises(InputError, match=r"^larf\.over_rejection_prompts: .*prompts\.jsonl: no such file"):
        plan(**asked)
    path.write_bytes(lines_of([{"prompt": "short"}, {"prompt": "word " * 3000}]))
    with pytest.raises(
        InputError, match=r"prompt 1 \(counted from 0\) has \d,\d+ tokens, with 32 of an answer"
    ) as caught:
        plan(**asked)
    assert "word" not in str(caught.value)
    path.write_bytes(b"")
    assert plan(**{**asked, "larf.layer": 1}).layers is None
    # What is wrong with the corpus shows first.
    (folder / "data/b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"b\.parquet"):
        plan(**asked)


def test_references_are_shards_after_the_corpus(plan: Planner, folder: Path) -> None:
    made = plan("shard_rows=2", **larf(folder))
    corpus = len(made.shards)
    assert corpus == 25
    assert [(s.role, s.rows, s.index) for s in made.reference_shards] == [
        ("larf.unsafe", 2, corpus),
        ("larf.unsafe", 1, corpus + 1),
        ("larf.safe", 2, corpus + 2),
        ("larf.safe", 1, corpus + 3),
    ]
    assert len({shard.name for shard in [*made.shards, *made.reference_shards]}) == corpus + 4


def test_the_shipped_references_can_be_used(plan: Planner) -> None:
    made = plan(method="larf")
    for role in ("larf.unsafe", "larf.safe"):
        assert sum(s.rows for s in made.reference_shards if s.role == role) >= 100
    assert "there are fewer rows than references; a share of so few says little" in made.warnings


def test_estimates(plan: Planner, folder: Path) -> None:
    made = plan()
    assert made.estimate.sampled == 50
    assert (made.estimate.bad, made.estimate.overlong) == (0.0, 0.0)
    short = made.estimate.tokens_per_row
    (folder / "data/a.jsonl").write_bytes(lines_of(rows_of(50, 50)))
    assert plan().estimate.tokens_per_row > short + 45


def test_the_estimate_looks_into_several_files(plan: Planner, folder: Path) -> None:
    for number in range(12):
        (folder / f"data/{number:02d}.jsonl").write_bytes(lines_of(rows_of(100)))
    assert plan().estimate.sampled == 8 * 64


# --- what would fail ----------------------------------------------------------------------------------------------


def test_overlong_rows_are_foreseen(plan: Planner, folder: Path) -> None:
    (folder / "data/a.jsonl").write_bytes(lines_of(rows_of(30) + rows_of(20, 300)))
    made = plan("max_tokens=100")
    assert made.estimate.overlong == 0.4
    assert made.will_fail
    [warning] = made.warnings
    assert "40% of 50 sampled rows are longer than max_tokens" in warning
    assert not plan("max_tokens=100", "overlong=keep_end").will_fail
    assert not plan("max_tokens=100", "max_quarantined=0.5").will_fail


@pytest.mark.parametrize(
    "bad",
    [
        b'{"prompt": "cut',
        b'{"prompt": "\xff", "response": "x"}',
        {"prompt": "a", "response": ""},
        {"prompt": 5, "response": "x"},
        b"[]",
    ],
)
def test_bad_rows_are_foreseen(plan: Planner, folder: Path, bad: Any) -> None:
    (folder / "data/a.jsonl").write_bytes(lines_of([*rows_of(15), bad, bad, bad, bad, bad]))
    made = plan()
    assert made.estimate.sampled == 20
    assert made.estimate.bad == 0.25
    assert made.will_fail
    assert "25% of 20 sampled rows cannot be used" in made.warnings[0]
    assert not plan("max_quarantined=0.3").will_fail


def test_a_file_of_which_no_row_can_be_read(plan: Planner, folder: Path) -> None:
    (folder / "data/a.jsonl").write_text("words\n" * 30)
    with pytest.raises(InputError, match=r"a\.jsonl: none of its first \d+ rows can be read \((malformed_json|not_an)"):
        plan()


def test_the_model_bounds_the_length(plan: Planner) -> None:
    made = plan("max_tokens=5000")
    assert made.max_tokens == 2048
    assert any(note.startswith("the model takes at most 2,048 tokens; max_tokens") for note in made.warnings)
    assert plan("max_tokens=500").max_tokens == 500


def test_every_broken_file_is_listed(plan: Planner, folder: Path) -> None:
    (folder / "data/b.json").write_bytes(b'[{"prompt": "a"')
    (folder / "data/c.parquet").write_bytes(b"PAR1 no more")
    (folder / "data/d.csv").write_bytes(b"prompt,response\n")
    with pytest.raises(InputError, match="2 of the 4 input files cannot be read") as caught:
        plan()
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["b.json", "c.parquet"]


def test_every_file_that_is_not_understood_is_listed(plan: Planner, folder: Path) -> None:
    (folder / "data/b.jsonl").write_bytes(lines_of([{"x": 1}]))
    (folder / "data/c.csv").write_bytes(b"y\n1\n")
    with pytest.raises(InputError, match=r"the conversations of 2 file\(s\) are not understood") as caught:
        plan()
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["b.jsonl", "c.csv"]
    assert "input.columns" in caught.value.problems[0]


def test_columns_set_by_hand(plan: Planner, folder: Path) -> None:
    (folder / "data/a.jsonl").write_bytes(
        lines_of([{"q": "hello", "a": "hi", "chosen": "Human: x\n\nAssistant: y"}] * 5)
    )
    assert dict(plan("input.columns={prompt: q, response: a}").files[0].dialect.columns) == {
        "prompt": "q",
        "response": "a",
    }
    assert plan("input.columns.text=chosen").files[0].dialect.name == "text"
    with pytest.raises(InputError, match="nosuch"):
        plan("input.columns={prompt: nosuch, response: a}")


def test_two_dialects_are_mentioned(plan: Planner, folder: Path) -> None:
    (folder / "data/b.jsonl").write_bytes(lines_of([{"instruction": "a", "input": "", "output": "b"}] * 5))
    assert "the files hold conversations in more than one dialect" in plan().warnings


def test_numbers_that_become_text_are_mentioned(plan: Planner, folder: Path) -> None:
    (folder / "data/b.jsonl").write_bytes(lines_of([{**row, "id": 2**70} for row in rows_of(3)]))
    [said] = plan().warnings
    assert said == "column id has whole numbers of more than 64 bits; in kept/ all its numbers are text"


@pytest.mark.parametrize("output", ["data", "data/", "data/out", "data/../data/out", "data/sub/out"])
def test_an_output_inside_the_input_is_refused(plan: Planner, folder: Path, output: str) -> None:
    with pytest.raises(ConfigError, match="inside the input folder"):
        plan(output=str(folder / output))
    with pytest.raises(ConfigError, match="inside the input folder"):
        plan(input=f"file://{folder}/data", output=str(folder / output))


def test_an_output_inside_the_input_is_refused_through_a_link_and_on_other_storage(plan: Planner, folder: Path) -> None:
    (folder / "link").symlink_to(folder / "data")
    with pytest.raises(ConfigError, match="inside the input folder"):
        plan(output=str(folder / "link/out"))
    with pytest.raises(ConfigError, match="inside the input folder"):
        plan(input="s3://corpus/data", output="s3://corpus/data/out")
    plan(output=str(folder / "data-out"))  # begins alike and lies beside


@pytest.mark.parametrize("pattern", ["data/**/*.parquet", "data/**/*.jsonl", "data/**", "*/out/*.json", "**/kept/*"])
def test_an_output_that_the_inputs_glob_finds_is_refused(plan: Planner, folder: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match=r"lies where .+ finds input"):
        plan(input=str(folder / pattern), output=str(folder / "data/out"))
    with pytest.raises(ConfigError, match=r"lies where .+ finds input"):
        plan(input=f"s3://corpus/{pattern}", output="s3://corpus/data/out")


def test_an_output_below_a_glob_that_does_not_find_it_is_taken(plan: Planner, folder: Path) -> None:
    for pattern in ("data/*.jsonl", "data/*", "**/a.jsonl"):
        plan(input=str(folder / pattern), output=str(folder / "data/out"))


def test_a_storage_that_workers_cannot_see_is_refused(plan: Planner) -> None:
    for changes in ({"input": "memory://corpus/a.jsonl"}, {"output": "memory://out"}):
        with pytest.raises(ConfigError, match="memory:// lives in one process"):
            plan(**changes)


def test_an_address_with_a_credential_is_refused_before_any_storage_is_asked(plan: Planner) -> None:
    for changes in (
        {"input": "s3://nowhere/a.jsonl", "output": "s3://key:hunter2@out"},
        {"output": "s3://k:hunter2@o"},
    ):
        with pytest.raises(ConfigError, match="credentials in an address are refused") as caught:
            plan(**changes)
        assert "hunter2" not in str(caught.value)


def test_an_input_that_finds_the_output_is_refused(plan: Planner, folder: Path) -> None:
    (folder / "out/kept").mkdir(parents=True)
    (folder / "out/kept/a.jsonl").write_bytes(lines_of(rows_of(3)))
    with pytest.raises(ConfigError, match=r"holds out/kept/a\.jsonl, which input names"):
        plan(input=str(folder / "**/a.jsonl"))


def test_layers_that_the_model_has_not(plan: Planner, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"^saft.layer=4: the model has blocks 0 to 3"):
        plan("saft.layer=4")
    with pytest.raises(ConfigError, match=r"^larf.layer=17: the model has blocks 0 to 3"):
        plan("larf.layer=17", **larf(folder))


def test_models_that_cannot_be_used(plan: Planner, folder: Path, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.name: .*nowhere"):
        plan(model=str(folder / "nowhere"))
    (folder / "empty").mkdir()
    with pytest.raises(ConfigError, match="empty"):
        plan(model=str(folder / "empty"))
    bare = Path(shutil.copytree(tiny_model, folder / "bare"))
    (bare / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        plan(model=str(bare))
    cut = Path(shutil.copytree(tiny_model, folder / "cut"))
    (cut / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"model .*cut"):
        plan(model=str(cut))
    (cut / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"model .*cut"):
        plan(model=str(cut))


@pytest.mark.parametrize("template", ["{% for m in messages %}", "{{ nosuch.x.y }", "/no/such/file.jinja"])
def test_templates_that_cannot_be_used(plan: Planner, template: str) -> None:
    with pytest.raises(ConfigError):
        plan(**{"model.template": template})


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"prompt": "a", "response": ""}, "row 2"),
        (b"{broken", "row 2: malformed_json"),
        ({"prompt": "a", "response": "word " * 3000}, "row 2: overlong"),
    ],
)
def test_a_bad_reference_is_named(plan: Planner, folder: Path, bad: Any, says: str) -> None:
    (folder / "safe.jsonl").write_bytes(lines_of([*rows_of(2), bad, *rows_of(2)]))
    with pytest.raises(InputError, match=r"1 reference row\(s\) cannot be used") as caught:
        plan(**larf(folder))
    [problem] = caught.value.problems
    assert problem.startswith(f"larf.safe_references: {folder}/safe.jsonl: {says}")


def test_a_missing_reference_file_is_named(plan: Planner, folder: Path) -> None:
    (folder / "unsafe.jsonl").unlink()
    with pytest.raises(InputError, match=r"unsafe\.jsonl: no such file"):
        plan(**larf(folder))


# --- the schema of kept/ ------------------------------------------------------------------------------------------


def typed(folder: Path, *tables: pa.Table) -> None:
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"data/{number}.parquet")


def test_json_has_no_schema_before_it_is_read(plan: Planner) -> None:
    assert plan().schema is None


def test_a_column_that_one_file_has_not_may_be_null(plan: Planner, folder: Path) -> None:
    text = pa.field("prompt", pa.string(), nullable=False)
    more = pa.schema(
        [text, ("response", pa.string()), pa.field("n", pa.int8(), nullable=False)], metadata={"who": "me"}
    )
    less = pa.schema([("response", pa.string()), text])
    typed(folder, pa.Table.from_pylist([{"prompt": "a", "response": "b", "n": 1}], schema=more))
    made = plan().schema
    assert made is not None
    assert made.equals(more, check_metadata=True)
    typed(
        folder,
        pa.Table.from_pylist([{"prompt": "a", "response": "b", "n": 1}], schema=more),
        pa.Table.from_pylist([{"prompt": "a", "response": "b"}], schema=less),
    )
    made = plan().schema
    assert made is not None
    assert made.names == ["prompt", "response", "n"]
    assert [field.nullable for field in made] == [False, True, True]
    assert made.metadata == {b"who": b"me"}


def test_columns_of_the_names_that_tamis_adds_are_mentioned(plan: Planner, folder: Path) -> None:
    assert not any("tamis_" in note for note in plan().notes)
    rows = [{**row, "sample_id": "mine"} for row in rows_of(50)]
    (folder / "data/a.jsonl").write_bytes(lines_of(rows))
    [said] = [note for note in plan().notes if "tamis_" in note]
    assert said.endswith("those of tamis are called tamis_sample_id")
    (folder / "data/a.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), folder / "data/a.parquet")
    assert said in plan().notes
    assert not any("tamis_" in note for note in plan("sample_id=none").notes)


def test_types_that_differ_are_named(plan: Planner, folder: Path) -> None:
    row = {"prompt": "a", "response": "b"}
    typed(folder, pa.Table.from_pylist([{**row, "n": 1}]), pa.Table.from_pylist([{**row, "n": "x"}]))
    with pytest.raises(InputError, match=r"one schema: column n is int64 in 0\.parquet and string in 1\.parquet; cast"):
        plan()


def test_the_plan_says_how_the_input_was_found_and_read(plan: Planner, folder: Path) -> None:
    pq.write_table(
        pa.table({"prompt": pa.array(["p"] * 5, pa.string_view()), "response": ["r"] * 5}), folder / "data/b.pq"
    )
    (folder / "data/c.json").write_bytes(lines_of(rows_of(5)))
    for name in ("d.csv", "e.csv"):
        (folder / f"data/{name}").write_bytes(b"prompt;response\n" + b"p;r\n" * 5)
    (folder / "data/f.csv").write_bytes(b"prompt,response\n")
    (folder / "data/README.md").write_text("words")
    (folder / "data/_SUCCESS").touch()
    made = plan()
    assert made.rows == 70
    assert made.schema is not None
    assert made.schema.types == [pa.string()] * 2
    assert (made.unread.files, made.unread.hidden) == (("README.md",), 1)
    for note in (
        "b.pq: column prompt is string_view, and string in kept/",
        "c.json: holds one JSON object a line, and is read so",
        "d.csv and 1 more: has semicolons between its fields (input.delimiter)",
        "f.csv: holds no rows, and is passed over",
    ):
        assert note in made.warnings
    console = Console(width=200, file=io.StringIO())
    show_plan(console, made, "new")
    assert isinstance(console.file, io.StringIO)
    assert "not read    1 file: README.md; 1 with a hidden or underscored name" in console.file.getvalue()


def test_how_a_table_is_read_is_set_by_hand(plan: Planner, folder: Path) -> None:
    (folder / "data/a.jsonl").unlink()
    (folder / "data/a.tsv").write_bytes(b"prompt\tresponse\n" + b'"p\tr"\n' * 5)
    assert plan("input.quoting=none").rows == 5
    made = plan("input.quoting=none", "input.delimiter='\t'")
    assert made.shards[0].layout.quoted is False
    assert made.fingerprint["input.quoting"] == "none"
    (folder / "data/a.tsv").unlink()
    (folder / "data/a.json").write_text(json.dumps({"one": rows_of(2), "two": rows_of(4)}))
    assert plan("input.field=two").rows == 4


@pytest.mark.parametrize(("setting", "what"), [("delimiter=';'", "CSV"), ("quoting=none", "CSV"), ("field=x", "JSON")])
def test_a_setting_for_files_that_there_are_not_is_refused(
    plan: Planner, folder: Path, setting: str, what: str
) -> None:
    if what == "JSON":
        (folder / "data/a.jsonl").unlink()
        (folder / "data/a.csv").write_bytes(b"prompt,response\np,r\n")
    with pytest.raises(ConfigError, match=rf"input\.{setting.split('=')[0]}: no input file is {what}"):
        plan(f"input.{setting}")


def test_an_input_without_rows_is_refused(plan: Planner, folder: Path) -> None:
    (folder / "data/a.jsonl").write_text("\n")
    (folder / "data/b.json").write_text("[]")
    with pytest.raises(InputError, match="the input holds no rows") as caught:
        plan()
    assert caught.value.problems == ("a.jsonl: holds no rows", "b.json: holds no rows")


@pytest.mark.parametrize(("output", "timeout", "said"), [("s3://b/out", 60, 1), ("s3://b/out", 900, 0), ("out", 60, 0)])
def test_a_timeout_shorter_than_an_outage(tiny_model: Path, output: str, timeout: float, said: int) -> None:
    job = {"input": "data", "output": output, "model": str(tiny_model), "method": "saft", "worker_timeout": timeout}
    warnings = short_timeout(load_job(None, job))
    assert ["worker_timeout is 60 s" in warning for warning in warnings] == [True] * said


@dataclass(frozen=True)
class _Twin(Saft):
    """Another method with a source named "safe"."""

    references: ClassVar[Mapping[str, str]] = {"safe": "Other files than LARF's."}


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Method]], None]]:
    """Puts a method in SAFT's place, for jobs that are read from then on."""
    caches = (methods.known, job_file._with_methods)

    def offer(kind: type[Method]) -> None:
        monkeypatch.setitem(METHODS, "saft", kind)
        for cache in caches:
            cache.cache_clear()

    yield offer
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def test_two_methods_may_name_a_source_alike(
    plan: Planner, folder: Path, offered: Callable[[type[Method]], None]
) -> None:
    offered(_Twin)
    (folder / "other.jsonl").write_bytes(lines_of(rows_of(5, 7)))
    both = {**larf(folder), "method": ["larf", "saft"]}
    with pytest.raises(ConfigError, match=r"saft\.safe_references is missing"):
        plan(**both)
    made = plan(**both, **{"saft.safe_references": str(folder / "other.jsonl")})
    rows = {shard.role: shard.rows for shard in made.reference_shards}
    assert rows == {"larf.unsafe": 3, "larf.safe": 3, "saft.safe": 5}
    assert made.fingerprint["references.larf.safe"] != made.fingerprint["references.saft.safe"]


@dataclass(frozen=True)
class _Norm(Method):
    """A method without any setting: how long the state is."""

    name: ClassVar[str] = "saft"
    title: ClassVar[str] = "Norm"
    about: ClassVar[str] = "how long the state is."

    def requests(self, blocks: int) -> tuple[Request, ...]:
        return (Request(blocks - 1, "last_token"),)

    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        return Artifact({})

    def score(self, artifact: Artifact, features: Features) -> Any:
        raise NotImplementedError


def test_a_method_may_have_no_layer_setting(plan: Planner, offered: Callable[[type[Method]], None]) -> None:
    offered(_Norm)
    made = plan()
    assert made.requests == (Request(made.model_info.blocks - 1, "last_token"),)


def test_a_column_that_emit_could_not_write_is_found_before_anything_runs(plan: Planner, folder: Path) -> None:
    rows = [{"prompt": "a", "response": "b", "meta": meta} for meta in ({"x": 1}, {"y": 1})]
    (folder / "data/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    meta = pa.array([{"score": 0.5}], pa.struct([("score", pa.float32())]))
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"], "meta": meta}), folder / "data/b.parquet")
    with pytest.raises(InputError, match="column meta is struct<score: float> in one file"):
        plan()


def test_a_small_corpus_without_a_usable_row_is_foreseen(plan: Planner, folder: Path) -> None:
    shutil.rmtree(folder / "data")
    (folder / "data").mkdir()
    (folder / "data/a.jsonl").write_text('{"prompt": "a", "response": null}\n{"prompt": "a", "response": "b"}\n' * 2)
    made = plan("max_quarantined=0.4")
    assert made.will_fail
    assert "50% of 4 sampled rows cannot be used" in made.warnings[0]
