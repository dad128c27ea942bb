"""The lease on an output folder: the living are respected, the dead are not waited for, clocks are not asked."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from tamis.pipeline.cluster.processes import started
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run import lease, paths
from tamis.pipeline.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "out"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 0.6)
    monkeypatch.setattr(lease, "_POLL_SECONDS", 0.02)


def put(store: Store, **changes: object) -> lease.Lease:
    """A lease of this process, or what is changed of it, as another driver would have left it."""
    theirs = replace(lease._own(), **changes)  # type: ignore[arg-type]
    store.write(paths.DRIVER, json.dumps(asdict(theirs)).encode())
    return theirs


def until(condition: object, what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_held_and_renewed_while_at_work_and_gone_at_the_end(store: Store) -> None:
    with lease.held(store) as held:
        first = lease.read(store)
        assert first is not None
        assert (first.id, first.pid) == (held.lease.id, psutil.Process().pid)
        until(lambda: (now := lease.read(store)) is not None and now.beat > first.beat + 1, "no renewal")
    assert lease.read(store) is None
    assert not held.contested


def test_gone_after_an_error_too(store: Store) -> None:
    with pytest.raises(KeyError), lease.held(store):
        raise KeyError
    assert lease.read(store) is None
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]


def test_a_living_driver_is_respected(store: Store) -> None:
    theirs = put(store)
    with pytest.raises(ConfigError) as caught, lease.held(store):
        pass
    said = str(caught.value)
    for word in (store.path(), str(theirs.pid), theirs.host, theirs.started, f"`tamis unlock {store.path()}`"):
        assert word in said
    assert lease.read(store) == theirs


@contextmanager
def interrupted(store: Store) -> Iterator[None]:
    """The block, and then the driver that waits until it is stopped."""
    with pytest.raises(ConfigError, match="was taken from this tamis"), lease.held(store) as driver:  # noqa: PT012
        yield
        until(lambda: False, "nobody has interrupted it")
    assert driver.contested


def test_a_driver_that_wakes_up_when_another_has_ended_the_run_stops(store: Store) -> None:
    with interrupted(store):
        store.write(paths.MANIFEST, b"{}")
        store.remove(paths.DRIVER)


def test_a_broken_lease_may_be_taken_and_its_driver_stops(store: Store) -> None:
    with interrupted(store):
        lease.unlock(store)
    broken = lease.read(store)
    assert broken is not None
    assert broken.broken, "it is not for the driver that has lost it to remove it"
    assert lease.unlock(store) is None
    with lease.held(store) as second:
        assert second.contested, "the first may still have been writing"
    assert lease.read(store) is None


@pytest.mark.parametrize("which", ["root", "out"])
def test_of_two_leases_the_one_that_is_lost_is_named(tmp_path: Path, which: str) -> None:
    """A night holds that on the root and that on its own folder."""
    stores = {"root": Store(str(tmp_path / "root")), "out": Store(str(tmp_path / "root" / "out"))}
    with (  # noqa: PT012
        pytest.raises(ConfigError, match=f"the lease on {re.escape(stores[which].path())} was taken"),
        lease.held(stores["root"]),
        lease.held(stores["out"]),
    ):
        lease.unlock(stores[which])
        until(lambda: False, "nobody has interrupted it")
    assert lease.read(stores["out" if which == "root" else "root"]) is None


def test_a_driver_in_another_thread_goes_on_and_knows(store: Store) -> None:
    """Nothing can interrupt it. What it writes is what the other one writes, but for times, and that is mended."""
    known: list[bool] = []

    def drive() -> None:
        with lease.held(store) as first:
            until(lambda: first.contested, "it did not notice")
            known.append(first.contested)

    thread = threading.Thread(target=drive)
    thread.start()
    until(lambda: lease.read(store) is not None, "no lease")
    lease.unlock(store)
    with lease.held(store) as second:
        thread.join()
        until(lambda: (now := lease.read(store)) is not None and now.id == second.lease.id, "no lease of the second")
    assert known == [True]


def test_a_renewal_under_way_does_not_mend_a_broken_lease(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = put(store, machine="elsewhere")
    write, renewals = lease._write, [theirs]

    def beside_a_renewal(store: Store, written: lease.Lease) -> None:
        write(store, written)
        if renewals:
            write(store, renewals.pop())

    monkeypatch.setattr(lease, "_write", beside_a_renewal)
    assert lease.unlock(store) == theirs
    now = lease.read(store)
    assert now is not None
    assert now.broken


def test_nobody_there_nothing_to_unlock(store: Store) -> None:
    assert lease.unlock(store) is None


@pytest.mark.parametrize("reaped", [False, True])
def test_a_dead_process_on_this_machine_is_not_waited_for(store: Store, reaped: bool) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        put(store, pid=child.pid, process_started=started(child.pid))
        with pytest.raises(ConfigError), lease.held(store):
            pass
        child.kill()
        if reaped:
            child.wait()
        else:
            until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "not dead")
        with lease.held(store):
            pass
    finally:
        child.kill()
        child.wait()


def test_another_process_may_have_the_pid_of_a_dead_one(store: Store) -> None:
    put(store, process_started=lease._own().process_started - 3600)
    with lease.held(store):
        pass


@pytest.mark.parametrize("started", ["1970-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"])
def test_a_dead_driver_elsewhere_is_watched_and_then_replaced(
    store: Store, started: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its clock may say what it likes.
    theirs = put(store, machine="elsewhere", host="node-7", started=started)
    with lease.held(store) as held:
        now = lease.read(store)
        assert now is not None
        assert now.id == held.lease.id
    assert f"another tamis was at work here ({theirs}); looking whether it still is" in capsys.readouterr().err


def test_a_living_driver_elsewhere_is_known_by_its_beat(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 30)
    theirs = put(store, machine="elsewhere", host="node-7")
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(0.1):
            number += 1
            store.write(paths.DRIVER, json.dumps(asdict(replace(theirs, beat=number))).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(ConfigError, match="node-7"), lease.held(store):
            pass
    finally:
        ended.set()
        thread.join()


def test_a_driver_elsewhere_that_ends_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "WATCH_SECONDS", 30)
    put(store, machine="elsewhere")
    remover = threading.Timer(0.1, store.remove, [paths.DRIVER])
    remover.start()
    with lease.held(store):
        pass
    remover.join()


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"pid": 1}', b"\xff"])
def test_what_is_no_lease_holds_nobody(store: Store, content: bytes) -> None:
    store.write(paths.DRIVER, content)
    with lease.held(store):
        pass


def test_a_storage_that_is_away_for_a_while_stops_nobody(store: Store, tmp_path: Path) -> None:
    with lease.held(store) as held:
        (tmp_path / "out").rename(tmp_path / "away")
        (tmp_path / "out").write_text("no folder")
        beat = held.lease.beat
        time.sleep(0.2)
        (tmp_path / "out").unlink()
        (tmp_path / "away").rename(tmp_path / "out")
        until(lambda: (now := lease.read(store)) is not None and now.beat > beat + 1, "no renewal any more")
    assert lease.read(store) is None


def test_renewals_are_frequent_enough_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 2 * lease.RENEW_SECONDS < lease.WATCH_SECONDS


def test_a_renewal_that_ends_after_the_driver_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a storage so slow that the driver does not wait for it any more."""
    begun, go_on, write = threading.Event(), threading.Event(), lease._write

    def slow(store: Store, written: lease.Lease) -> None:
        if written.beat:
            begun.set()
            go_on.wait(30)
        write(store, written)

    monkeypatch.setattr(lease, "_write", slow)
    monkeypatch.setattr(lease, "_LAST_WAIT_SECONDS", 0.0)
    with lease.held(store):
        assert begun.wait(30)
    [renewing] = [thread for thread in threading.enumerate() if thread.name == "lease"]
    go_on.set()
    renewing.join(30)
    assert lease.read(store) is None
