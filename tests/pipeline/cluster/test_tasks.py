"""The engine: trees that give what one process gives, errors that stay ours."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tamis.operators.methods.protocol import tree_reduce
from tamis.operators.problems import RowProblem
from tamis.pipeline.cluster import tasks as engine
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.cluster.tasks import map_reduce, own_error, stream
from tamis.pipeline.errors import ClusterError, ConfigError, InputError, TooLargeError

# --- errors -------------------------------------------------------------------------------------------------------


def wrapped(error: BaseException, cause: BaseException, by: str) -> BaseException:
    if by == "cause":
        error.cause = cause  # type: ignore[attr-defined]
    else:
        error.__cause__ = cause
    return error


@pytest.mark.parametrize("by", ["cause", "from"])
def test_our_own_error_is_dug_out(by: str) -> None:
    ours = InputError("gone", ["a.jsonl"])
    assert own_error(ours) is ours
    assert own_error(wrapped(RuntimeError("ray"), ours, by)) is ours
    assert own_error(wrapped(RuntimeError("data"), wrapped(RuntimeError("ray"), ours, by), by)) is ours


def test_another_error_is_left_as_it_is() -> None:
    for error in (ValueError("x"), wrapped(RuntimeError("a"), ValueError("b"), "cause")):
        assert own_error(error) is error
    itself = RuntimeError("loop")
    itself.cause = itself  # type: ignore[attr-defined]
    assert own_error(itself) is itself


# --- on Ray -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session() -> Iterator[Cluster]:
    from ray import cloudpickle

    # Workers cannot import a test module: its functions travel by value.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    before = os.environ.pop("RAY_ADDRESS", None)
    try:
        with ray_session(None) as found:
            yield found
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def _square(number: int, plus: int, table: np.ndarray) -> int:  # type: ignore[type-arg]
    return number**2 + plus + int(table.sum())


def _leaf(group: Sequence[float], scale: float) -> list[float]:
    return [math.fsum(group) * scale]


def _join(a: list[float], b: list[float]) -> list[float]:
    # Neither commutative nor associative: any other tree, or another order, shows.
    return [a[0] - 0.5 * b[0], *a, *b]


def _refuse(item: int) -> int:
    if item == 3:
        raise InputError("the input cannot be read any more", ["x.jsonl: gone"])
    return item


def _refuse_join(a: int, b: int) -> int:
    raise ConfigError(f"{a} and {b}")


def _value_error(item: int) -> int:
    raise ValueError(f"item {item} is bad")


def _row_problem(item: int) -> int:
    raise RowProblem("odd", f"item {item}")


def _die(item: int, folder: str) -> int:
    """The worker is killed the first time."""
    mark = Path(folder) / str(item)
    if item == 1 and not mark.exists():
        mark.touch()
        os._exit(1)
    return item


def test_the_session(session: Cluster) -> None:
    assert session.address == "local"
    assert session.nodes == 1
    assert session.cpus >= 1
    assert session.seconds_to_start > 0


def test_a_stream_gives_every_item_once(session: Cluster) -> None:
    table = np.arange(10)
    found = dict(stream(_square, range(25), 7, table, cpus=0.5))
    assert found == {i: i**2 + 7 + 45 for i in range(25)}
    assert dict(stream(_square, range(5), 7, table, cpus=0.5, window=1)) == {i: i**2 + 52 for i in range(5)}
    assert list(stream(_square, [], 7, table)) == []


def test_a_stream_may_be_left_early(session: Cluster) -> None:
    running = stream(_square, range(50), 0, np.zeros(1), cpus=0.5)
    next(running)
    running.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("groups", [1, 2, 3, 7, 8, 21])
def test_a_tree_of_tasks_is_the_tree_in_process(session: Cluster, groups: int) -> None:
    parts = [[float(i), 0.1 * i] for i in range(groups)]
    done: list[int] = []
    found = map_reduce(_leaf, _join, parts, 3.0, on_done=done.append, cpus=0.5)
    assert found == tree_reduce((_leaf(part, 3.0) for part in parts), _join)
    assert done == list(range(groups))


def test_what_combines_need_not_be_a_function(session: Cluster) -> None:
    found = map_reduce(partial(_leaf_sum, 2.0), np.add, [1.0, 2.0, 3.0], cpus=0.5)
    assert found == 12.0


def _leaf_sum(factor: float, value: float) -> float:
    return factor * value


class _OfAModule:
    """What workers have to import a module for that they have not."""

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, ("tamis_not_there",)


def test_a_module_that_workers_lack_is_named(session: Cluster) -> None:
    absent = _OfAModule()
    with pytest.raises(ClusterError, match=r"has no module tamis_not_there; .* must be installed on every node"):
        map_reduce(lambda group, _: group, _add, [1, 2], absent, cpus=0.5)
    with pytest.raises(ClusterError, match="has no module tamis_not_there"):
        list(stream(lambda item, _: item, [1, 2], absent, cpus=0.5))


def test_nothing_to_reduce(session: Cluster) -> None:
    with pytest.raises(ValueError, match="there are no parts"):
        map_reduce(_leaf, _join, [], 1.0)


def test_our_errors_come_back_as_they_were_raised(session: Cluster) -> None:
    with pytest.raises(InputError) as caught:
        list(stream(_refuse, range(6), cpus=0.5))
    assert type(caught.value) is InputError
    assert str(caught.value) == "the input cannot be read any more\n  - x.jsonl: gone"
    assert caught.value.problems == ("x.jsonl: gone",)
    with pytest.raises(InputError, match="cannot be read any more") as caught:
        map_reduce(_refuse, _add, [2, 3, 4], cpus=0.5)
    assert type(caught.value) is InputError
    with pytest.raises(ConfigError) as refused:
        map_reduce(_refuse, _refuse_join, [1, 2], cpus=0.5)
    assert str(refused.value) == "1 and 2"


def _add(a: int, b: int) -> int:
    return a + b


def test_other_errors_come_back_without_the_worker_s_traceback(session: Cluster) -> None:
    for run in (
        lambda: list(stream(_value_error, [5], cpus=0.5)),
        lambda: map_reduce(_value_error, _add, [5, 5], cpus=0.5),
    ):
        with pytest.raises(ValueError, match=r"^item 5 is bad$"):
            run()
    with pytest.raises(RowProblem, match="item 5") as caught:
        list(stream(_row_problem, [5], cpus=0.5))
    assert caught.value.code == "odd"


def _die_always(item: int) -> int:
    os._exit(1)


def test_a_task_that_kills_every_worker_is_given_up(session: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"Ray lost a task for good .*; run the same command again to go on"):
        list(stream(_die_always, [0], cpus=0.5))


def _die_at_one(item: int) -> int:
    return os._exit(1) if item == 1 else item


def test_what_kills_every_worker_can_be_left_out(session: Cluster) -> None:
    lost: dict[int, str] = {}
    assert dict(stream(_die_at_one, range(4), cpus=0.5, on_lost=lost.__setitem__)) == {0: 0, 2: 2, 3: 3}
    assert list(lost) == [1]
    assert lost[1].startswith("every worker that had it died (")
    assert "\n" not in lost[1]


def _too_large_at_one(item: int) -> int:
    if item == 1:
        raise TooLargeError("a.parquet, rows 5 to 9: its rows take too much", "its rows take too much")
    return item


def test_rows_that_are_too_large_can_be_left_out(session: Cluster) -> None:
    lost: dict[int, str] = {}
    assert dict(stream(_too_large_at_one, range(4), cpus=0.5, on_lost=lost.__setitem__)) == {0: 0, 2: 2, 3: 3}
    assert lost == {1: "its rows take too much"}
    with pytest.raises(TooLargeError, match="rows 5 to 9"):
        dict(stream(_too_large_at_one, range(4), cpus=0.5))


def test_tasks_that_are_about_to_end_may(session: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_END_SECONDS", 60.0)
    found = stream(_touch_soon, [str(tmp_path / str(number)) for number in range(4)], cpus=0.5)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) == 4


def _wait_for_two(item: int, folder: str) -> list[str]:
    """Who had begun when it was done. The first waits for the next two, which show that more could have begun."""
    (Path(folder) / str(item)).touch()
    while item == 0 and not all((Path(folder) / name).exists() for name in "12"):
        time.sleep(0.01)
    return sorted(path.name for path in Path(folder).iterdir())


def test_nothing_is_begun_too_far_ahead_of_the_oldest(session: Cluster, tmp_path: Path) -> None:
    found = dict(stream(_wait_for_two, range(9), str(tmp_path), cpus=0.5, ahead=3))
    assert found[0] == ["0", "1", "2"]
    assert len(found) == 9


def _touch_soon(path: str) -> None:
    time.sleep(0.2)
    Path(path).touch()


def test_a_task_whose_worker_dies_is_done_again(session: Cluster, tmp_path: Path) -> None:
    assert dict(stream(_die, range(3), str(tmp_path), cpus=0.5)) == {0: 0, 1: 1, 2: 2}
    assert (tmp_path / "1").exists()


def _hang_once(item: int, folder: str) -> int:
    mark = Path(folder) / str(item)
    if item == 1 and not mark.exists():
        mark.touch()
        time.sleep(600)
    return item


def _hang(item: int) -> int:
    if item == 0:
        time.sleep(600)
    return item


@pytest.mark.long
def test_a_task_that_hangs_is_done_again(session: Cluster, tmp_path: Path) -> None:
    # Long enough for a worker to start on a busy machine.
    assert dict(stream(_hang_once, range(5), str(tmp_path), cpus=1.0, timeout=15.0)) == {i: i for i in range(5)}


@pytest.mark.long
def test_what_hangs_every_time_does_not_take_along_what_waits_behind_it(session: Cluster) -> None:
    lost: dict[int, str] = {}
    # The killed workers are started anew each time, also on a busy machine.
    found = dict(stream(_hang, range(4), cpus=1.0, window=3, on_lost=lost.__setitem__, timeout=10.0))
    assert found == {1: 1, 2: 2, 3: 3}
    assert lost == {0: "no progress in 10 s, 3 times"}
