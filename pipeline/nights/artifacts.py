"""With which artifact a night is cut, and whether a new one is due. No storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tamis.pipeline.job.schedule import ScheduleSpec
from tamis.pipeline.nights.runs import Refit, Run


@dataclass(frozen=True)
class Choice:
    """name: the folder under the root of the artifact that is there; None where the night fits its own. used_by: the
    finished nights that were cut with it, the oldest first. refit: whether a new one is due before this night, from the
    captures of used_by."""

    name: str | None
    used_by: tuple[str, ...] = ()
    refit: bool = False


def choose_artifact(spec: ScheduleSpec, runs: Sequence[Run], refits: Sequence[Refit]) -> Choice:
    """The artifact for the next night: the newest that was fitted from nights, else that of the oldest night that
    fitted its own, else the copy in the newest night (its source is gone). refits: the oldest first."""
    finished = sorted((run for run in runs if run.finished and run.drops), key=lambda run: (run.created, run.name))
    if spec.artifact == "each_night" or not (refits or finished):
        return Choice(None)
    own = [run.name for run in finished if run.artifact is None]
    name = refits[-1].name if refits else [*own, finished[-1].name][0]
    used_by = tuple(run.name for run in finished if name in (run.artifact, run.name))
    return Choice(name, used_by, spec.refit_every is not None and len(used_by) >= spec.refit_every)
