"""Reference models trained on a real Ray, by one worker and by two: the bytes of one process, errors that stay ours.

Workers that die or hang: test_reference_deaths.py."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
from reference_samples import (
    FOLDER,
    PAIR,
    POOL,
    ROWS,
    STEPS,
    TRAINING,
    WEIGHTS,
    WORK,
    run_here,
    sample,
    samples,
    train,
    worker_spec,
    workers_of,
)
from safetensors.numpy import load

from tamis.operators.forward.losses import TokenLosses
from tamis.operators.methods.toss import Training
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.cluster.watchdog import start_watch
from tamis.pipeline.errors import ClusterError, ConfigError, DamagedError, InputError
from tamis.pipeline.references import group as reference_group
from tamis.pipeline.references import training as reference_training
from tamis.pipeline.references import worker as reference_worker
from tamis.pipeline.references.group import WorkerDied, messages
from tamis.pipeline.references.rows import SCHEMA, read_rows, write_rows
from tamis.pipeline.references.training import reference_key
from tamis.pipeline.references.worker import ReferenceSpec, run
from tamis.pipeline.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")


def no_worker(*arguments: Any) -> Iterator[Any]:
    raise RuntimeError("a worker was started")
    yield


def here(spec: ReferenceSpec, pool: Pool, workers: int, timeout: float) -> Iterator[Any]:
    """The worker's part in this process."""
    return run(spec)


@pytest.fixture(scope="module")
def expected(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training in this process."""
    folder = tmp_path_factory.mktemp("expected")
    run_here(Store(str(folder)), tiny_model)
    return folder


# --- rows ---------------------------------------------------------------------------------------------------------


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    written = write_rows(store, "utility", ROWS)
    assert written.name == f"{WORK}/rows.parquet"
    assert store.read_table(written.name).schema.equals(SCHEMA)
    ids, ranges = read_rows(store, written.sealed)
    assert [row.tolist() for row in ids] == [row.input_ids.tolist() for row in ROWS]
    assert [tuple(own) for own in ranges] == [row.responses for row in ROWS]
    assert read_rows(store, write_rows(store, "utility", []).sealed) == ([], [])
    with pytest.raises(DamagedError, match=r"rows\.parquet: is not as it was written"):
        read_rows(store, written.sealed)


def test_the_key_is_that_of_the_result() -> None:
    key = reference_key({"model": "a"}, TRAINING, ROWS)
    assert key == reference_key({"model": "a"}, replace(TRAINING, checkpoint_steps=7), samples())
    assert reference_key({}, Training(), ROWS) == reference_key({}, Training(alpha=16), ROWS)
    others = [
        reference_key({"model": "b"}, TRAINING, ROWS),
        reference_key({"model": "a"}, replace(TRAINING, seed=1), ROWS),
        reference_key({"model": "a"}, TRAINING, ROWS[::-1]),
        reference_key({"model": "a"}, TRAINING, [sample(8, (2, 4), (6, 7)), *ROWS[1:]]),
    ]
    assert len({key, *others}) == 5


# --- one worker, in this process ----------------------------------------------------------------------------------


def test_a_worker_says_what_it_does(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    said = run_here(store, tiny_model)
    assert said[:2] == [{"loads": "models/tiny"}, {"begins": 0, "steps": STEPS}]
    assert [message["point"]["step"] for message in said[2:-1]] == list(range(1, STEPS + 1))
    facts = said[-1]["done"]
    assert facts["curve"] == [message["point"] for message in said[2:-1]]
    assert (facts["rows"], facts["response_tokens"]) == (10, sum(2 + 2 + 2 * row for row in range(10)))
    assert facts["recipe"]["target_modules"] == ["q_proj", "v_proj"]
    assert facts["precision"] == "float32 on cpu"
    assert store.list(WORK) == ["rows.parquet", f"step-{STEPS}.json", f"step-{STEPS}.safetensors"]
    assert str(tiny_model) not in json.dumps(facts) + store.read(f"{FOLDER}/adapter_config.json").decode()
    assert store.read_json(f"{FOLDER}/adapter_config.json")["base_model_name_or_path"] == "models/tiny"


def interrupt(store: Store, model: Path, step: int) -> None:
    with closing(run(worker_spec(store, model))) as said:
        assert any(message.get("point", {}).get("step") == step for message in said)


def test_an_interrupted_worker_goes_on_from_its_newest_whole_checkpoint(
    tiny_model: Path, tmp_path: Path, expected: Path
) -> None:
    store = Store(str(tmp_path))
    interrupt(store, tiny_model, 5)
    assert store.list(WORK) == ["rows.parquet", "step-4.json", "step-4.safetensors"]
    facts = store.read_facts(f"{WORK}/step-4.json")
    store.write(f"{WORK}/step-6.safetensors", b"cut")
    store.write_facts(f"{WORK}/step-6.json", facts)
    store.write(f"{WORK}/step-7.safetensors", b"no JSON")
    store.write(f"{WORK}/step-8.json", b'{"key": ')
    assert run_here(store, tiny_model)[1] == {"begins": 4, "steps": STEPS}
    assert store.read(WEIGHTS) == Store(str(expected)).read(WEIGHTS)
    assert store.list(WORK) == ["rows.parquet", f"step-{STEPS}.json", f"step-{STEPS}.safetensors"]
    assert run_here(store, tiny_model)[1] == {"begins": STEPS, "steps": STEPS}
    assert store.read(WEIGHTS) == Store(str(expected)).read(WEIGHTS)


def test_a_checkpoint_of_another_key_is_not_used(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    interrupt(store, tiny_model, 5)
    assert run_here(store, tiny_model, key="another")[1] == {"begins": 0, "steps": STEPS}


# --- on Ray -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("session")
def test_the_bytes_are_those_of_one_process_and_nothing_is_trained_twice(
    tiny_model: Path,
    tmp_path: Path,
    expected: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    store = Store(str(tmp_path))
    facts = train(store, tiny_model)
    assert store.read(WEIGHTS) == Store(str(expected)).read(WEIGHTS)
    assert store.list(FOLDER) == ["adapter_config.json", "adapter_model.safetensors", "training.json"]
    assert sorted(file["name"] for file in facts["files"]) == [f"{FOLDER}/{name}" for name in store.list(FOLDER)]
    assert set(facts["seconds"]) == {"load", "train"}
    told = store.read_facts(f"{FOLDER}/training.json")
    assert facts == {**told, "files": facts["files"], "seconds": facts["seconds"]}
    assert (told["key"], told["steps"], told["workers"], told["base"]) == ("key", STEPS, 1, "models/tiny")
    assert f"{STEPS} / {STEPS} steps" in capfd.readouterr().err
    assert str(tiny_model) not in json.dumps(told)

    losses, problems = TokenLosses.load(tiny_model, adapters={"u": tmp_path / FOLDER}, device="cpu").losses(
        [row.input_ids for row in ROWS], [row.responses for row in ROWS]
    )
    assert not problems
    assert np.concatenate(losses["u"]).mean() < told["curve"][0]["loss"]

    with monkeypatch.context() as patch:
        patch.setattr(reference_training, "messages", no_worker)
        assert train(store, tiny_model) == {**facts, "seconds": {}}
        store.write(WEIGHTS, b"changed")
        with pytest.raises(ClusterError, match="a worker was started"):
            train(store, tiny_model)


def listening(process: psutil.Process) -> list[str]:
    """The addresses at which a process listens, once a port."""
    look = getattr(process, "net_connections", None) or process.connections  # psutil < 6
    return [door.laddr.ip for door in look(kind="inet") if door.status == psutil.CONN_LISTEN]


@pytest.mark.usefixtures("session")
def test_two_workers_give_what_one_gives(
    tiny_model: Path, tmp_path: Path, expected: Path, ray_logs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody from outside can reach them."""
    store = Store(str(tmp_path / "out"))
    doors: list[list[str]] = []
    take = reference_training._Shown.take

    def looking(shown: Any, message: dict[str, Any]) -> None:
        if "begins" in message:
            doors.extend(map(listening, workers_of(ray_logs.parents[1], "RayTrainWorker")))
        take(shown, message)

    monkeypatch.setattr(reference_training._Shown, "take", looking)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    facts = train(store, tiny_model, pool=PAIR)
    assert not list((tmp_path / "temporary").iterdir())
    assert facts["workers"] == 2
    outside = [[door for door in found if door not in {"127.0.0.1", "::ffff:127.0.0.1", "::1"}] for found in doors]
    assert [len(found) for found in outside] == [1, 1], "the one that Ray opens on a cluster started by hand"
    assert all(len(found) > 1 for found in doors), "they hear each other through another one"
    found, wanted = load(store.read(WEIGHTS)), load(Store(str(expected)).read(WEIGHTS))
    assert max(np.abs(found[name] - wanted[name]).max() for name in wanted) <= 1e-5


@pytest.mark.usefixtures("session")
def test_what_ends_a_worker_alone(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    spec = worker_spec(store, tiny_model)
    store.remove(f"{WORK}/rows.parquet")
    with pytest.raises(DamagedError, match=r"rows\.parquet: is missing"):
        list(messages(spec, POOL, 1, 600.0))
    monkeypatch.setattr(reference_group, "START_MINUTES", 0.01)
    with pytest.raises(ClusterError, match=r"no room for the training of the utility model.*run the same command"):
        list(messages(spec, replace(POOL, cpus_per_worker=64), 1, 600.0))


@pytest.mark.usefixtures("session")
def test_memory_is_given_back_when_the_model_is_gone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of a worker alone goes on with other tasks."""
    store = Store(str(tmp_path))
    written: list[bool] = []
    monkeypatch.setattr(reference_worker, "return_freed_memory", lambda: written.append(store.exists(WEIGHTS)))
    list(reference_worker.train_alone(worker_spec(store, tiny_model), start_watch()))
    assert written == [True]


@pytest.mark.usefixtures("session")
def test_a_worker_is_watched_from_its_first_step_to_its_end(tiny_model: Path, tmp_path: Path) -> None:
    """Not while it loads a model, which may have to be downloaded, nor when all is done."""
    store, guard = Store(str(tmp_path)), start_watch()
    watched = [
        (kind, bool(ray.get(guard.watch.stalled.remote(-1.0))))
        for message in reference_worker.train_alone(worker_spec(store, tiny_model), guard)
        if (kind := next(iter(message)))
    ]
    assert watched == [("loads", False), ("begins", True), *[("point", True)] * STEPS, ("done", True)]
    assert ray.get(guard.watch.stalled.remote(-1.0)) == {}


def test_steps_are_counted_once_and_none_is_forgotten(capfd: pytest.CaptureFixture[str]) -> None:
    shown = reference_training._Shown("utility")
    # Steps 4 and 6 were in checkpoints, their word was lost.
    for begins, told in ((0, [1, 2, 3]), (2, [3]), (4, [5]), (6, list[int]())):
        shown.take({"begins": begins, "steps": 6})
        for step in told:
            shown.take({"point": {"step": step, "tokens": 10, "loss": 1.0}})
    shown.finish()
    assert "6 / 6 steps 100%" in capfd.readouterr().err


@pytest.mark.usefixtures("session")
def test_errors_of_ours_surface_as_themselves(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^utility references: row 1: the sample has no response tokens"):
        train(Store(str(tmp_path / "rows")), tiny_model, rows=[sample(9, (3, 5)), sample(9, (3, 3))])


# --- failures, without a group of workers -------------------------------------------------------------------------


def test_a_model_that_is_not_there_and_a_target_that_it_lacks(tiny_model: Path, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(ConfigError, match=r"^model models/tiny: it has no linear layer 'c_attn'; it has .*q_proj"):
        run_here(store, tiny_model, training=replace(TRAINING, target_modules=["c_attn"]))
    broken = Path(shutil.copytree(tiny_model, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ConfigError, match=r"^model models/tiny: weight file model\.safetensors is damaged"):
        run_here(store, broken)


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what happens beside the workers: there is always room."""
    monkeypatch.setattr(reference_training, "room", lambda pool: pool.workers)
    monkeypatch.setattr(reference_training, "wait_for_room", lambda pool, *_, **__: pool.begin)


@pytest.mark.usefixtures("without_ray")
def test_deaths_are_told_from_errors_and_are_finite(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for raised, times, kind, message in (
        (WorkerDied("lost"), 4, ClusterError, r"its workers died 4 times.*run the same command again"),
        (RuntimeError("a bug"), 1, ClusterError, r"RuntimeError: a bug.*Its checkpoints stay"),
        (ConfigError("mend this"), 1, ConfigError, "^mend this$"),
    ):
        started: list[int] = []

        def fail(*arguments: Any, error: Exception = raised, started: list[int] = started) -> Iterator[Any]:
            started.append(1)
            raise error
            yield

        monkeypatch.setattr(reference_training, "messages", fail)
        with pytest.raises(kind, match=message):
            train(Store(str(tmp_path)), tiny_model)
        assert len(started) == times


@pytest.mark.usefixtures("without_ray")
def test_another_key_trains_anew_and_the_same_bytes_come_of_it(
    tiny_model: Path, tmp_path: Path, expected: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_training, "messages", here)
    store = Store(str(tmp_path))
    first = train(store, tiny_model, training=replace(TRAINING, seed=1), key="of seed 1")
    other = store.read(WEIGHTS)
    second = train(store, tiny_model)
    assert store.read_json(f"{FOLDER}/training.json")["key"] == "key"
    assert store.read(WEIGHTS) == Store(str(expected)).read(WEIGHTS) != other
    assert first["curve"] != second["curve"]
    written = store.read(f"{FOLDER}/training.json")
    shutil.rmtree(tmp_path)
    train(store, tiny_model)
    assert store.read(f"{FOLDER}/training.json") == written
