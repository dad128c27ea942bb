"""Trainings on a real Ray whose workers die or hang, or whom nobody waits for any more."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from reference_samples import LONG, PAIR, POOL, WEIGHTS, WORK, run_here, train, worker_spec, workers_of
from safetensors.numpy import load

from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.references import group as reference_group
from tamis.pipeline.references import training as reference_training
from tamis.pipeline.references.group import messages
from tamis.pipeline.storage.store import Store

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]


@pytest.mark.usefixtures("session")
@pytest.mark.parametrize("harm", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
@pytest.mark.parametrize(
    ("title", "pool"), [("train_alone", POOL), ("RayTrainWorker", PAIR)], ids=["alone", "of a group"]
)
def test_another_worker_goes_on_from_the_checkpoint_of_one_that_was(
    harm: signal.Signals,
    title: str,
    pool: Pool,
    tiny_model: Path,
    tmp_path: Path,
    ray_logs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole, store = Store(str(tmp_path / "whole")), Store(str(tmp_path / "killed"))
    run_here(whole, tiny_model, training=LONG)
    struck: list[psutil.Process] = []
    begun: list[int] = []
    take = reference_training._Shown.take

    def noting(shown: Any, message: dict[str, Any]) -> None:
        begun.extend([message["begins"]] if "begins" in message else [])
        take(shown, message)

    monkeypatch.setattr(reference_training._Shown, "take", noting)

    def strike() -> None:
        deadline = time.monotonic() + 120
        while len(found := workers_of(ray_logs.parents[1], title)) < pool.workers and time.monotonic() < deadline:
            time.sleep(0.05)
        while not any(name.endswith(".json") for name in store.list(WORK)) and time.monotonic() < deadline:
            time.sleep(0.005)
        for process in found[:1]:  # the other one of a group then waits in vain
            process.send_signal(harm)
            struck.append(process)

    striker = threading.Thread(target=strike)
    striker.start()
    reasons: list[str | None] = []
    kill_stalled = reference_group.kill_stalled

    def counted(*arguments: Any) -> str | None:
        reasons.append(kill_stalled(*arguments))
        return reasons[-1]

    monkeypatch.setattr(reference_group, "kill_stalled", counted)
    # Long enough for a step on a busy machine; to be taken for hung wrongly would only cost time.
    facts = train(store, tiny_model, pool=pool, training=LONG, timeout=8.0 if harm == signal.SIGSTOP else 600.0)
    striker.join()
    [process] = struck
    assert process.wait(timeout=60) is None  # no child of ours, so there is no code
    assert any(reasons) == (harm == signal.SIGSTOP)
    first, *later = begun
    assert first == 0
    assert later
    assert all(0 < step <= 240 for step in later)
    assert facts["steps"] == 240
    assert [point["step"] for point in facts["curve"]] == list(range(1, 241))
    found, wanted = load(store.read(WEIGHTS)), load(whole.read(WEIGHTS))
    apart = max(np.abs(found[name] - wanted[name]).max() for name in wanted)
    assert apart <= (0 if pool is POOL else 1e-5), "a group adds up the same numbers in another order"
    assert "240 / 240 steps" in capfd.readouterr().err


@pytest.mark.usefixtures("session")
def test_a_training_that_nobody_listens_to_any_more_ends(tiny_model: Path, tmp_path: Path, ray_logs: Path) -> None:
    store = Store(str(tmp_path))
    with closing(messages(worker_spec(store, tiny_model, training=LONG), POOL, 1, 600.0)) as said:
        assert any("point" in message for message in said)
        assert workers_of(ray_logs.parents[1], "train_alone")
    deadline = time.monotonic() + 60
    while workers_of(ray_logs.parents[1], "train_alone"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not store.exists(WEIGHTS)
