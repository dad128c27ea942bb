"""What an error of Ray Train means. The workers themselves are tested in test_reference_training.py and
test_reference_deaths.py."""

from __future__ import annotations

import pytest
import ray
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.references.group import WorkerDied, _meaning, _task

DIED: Exception = RuntimeError("the actor died")
BUG, OURS = RuntimeError("a bug"), ConfigError("mend this")


@pytest.mark.parametrize(("gpus", "calls"), [(0.0, None), (0.5, 1), (2.0, 1)])
def test_a_process_that_has_used_a_gpu_ends_with_its_training(gpus: float, calls: int | None) -> None:
    """Else it would hold the GPU's memory beside the workers that score. None: Ray may use it again."""
    assert _task(Pool(1, 1.0, gpus, None, 1.0))._default_options.get("max_calls") == calls


def raised(error: Exception) -> Exception:
    return UserExceptionWithTraceback(error, "")  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("failures", "expected"),
    [
        ({0: raised(BUG)}, BUG),
        ({0: raised(BUG), 1: raised(OURS)}, OURS),
        ({0: DIED, 1: raised(BUG)}, WorkerDied),
        ({0: DIED, 1: raised(OURS)}, OURS),
        ({0: DIED, 1: DIED}, WorkerDied),
    ],
)
def test_a_group_of_workers(failures: dict[int, Exception], expected: object) -> None:
    found = _meaning(WorkerGroupError("", failures))
    assert found is expected or type(found) is expected


def test_of_workers_that_we_killed_we_know_why() -> None:
    """Those that are left raise what looks like a bug: the connection to the others is closed."""
    found = _meaning(WorkerGroupError("", {0: raised(BUG), 1: raised(BUG)}), "no progress")
    assert isinstance(found, WorkerDied)
    assert str(found) == "no progress"
    assert _meaning(WorkerGroupError("", {0: raised(OURS), 1: DIED}), "no progress") is OURS


def test_the_reason_of_a_death_is_told() -> None:
    assert str(_meaning(WorkerGroupError("", {0: DIED, 1: raised(BUG)}))) == "the actor died"


def test_what_is_no_failure_of_a_worker() -> None:
    assert isinstance(_meaning(ray.exceptions.ActorDiedError()), WorkerDied)
    lasting = ray.exceptions.RuntimeEnvSetupError("no such package")
    assert _meaning(lasting) is lasting
    other = ControllerError(RuntimeError("no room"))
    assert _meaning(other) is other
