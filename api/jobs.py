"""`tamis.curate` and `tamis.plan`: from arguments to a job, which the command itself then runs (command.py)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tamis.arguments import Arguments, make_job
from tamis.command import attempt, error_of, run
from tamis.finished import Run, load


@dataclass(frozen=True)
class Plan:
    """What a run would do. `str(plan)` says it in lines.

    facts: the values of the plan, by the names that docs/reference.md has for the event `plan` of `--log-format json`.
    warnings: what looks wrong. notes: what else is to know.
    """

    facts: Mapping[str, Any]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return int(self.facts["rows"])

    @property
    def tokens(self) -> int:
        """Tokens of the input, estimated from a sample of its rows."""
        return int(self.facts["tokens"])

    @property
    def will_fail(self) -> bool:
        """Whether the run would fail; `warnings` say why."""
        return bool(self.facts["will_fail"])

    @property
    def state(self) -> str:
        """new, started or complete: what lies in the output."""
        return str(self.facts["state"])

    def __str__(self) -> str:
        lines = [self.facts["message"], *self.notes, *(f"warning: {line}" for line in self.warnings)]
        return "\n".join(lines)

    __repr__ = __str__


def curate(
    data: Any,
    model: str | os.PathLike[str] | None = None,
    method: str | Sequence[str] | None = None,
    drop: float | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    drop_count: int | None = None,
    threshold: float | None = None,
    artifact: str | os.PathLike[str] | Run | None = None,
    revision: str | None = None,
    workers: int | Mapping[str, int] | None = None,
    references: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Score a corpus, and write it back without its riskiest samples: `tamis curate`.

    data: a path, glob or URL, or a list of these; or the rows: a datasets.Dataset, a pandas or polars DataFrame, an
    Arrow table, a list of dicts. Rows in memory are written as Parquet into a folder beside the output, OUTPUT.input.
    model: a folder with a transformers model, or its name on the Hugging Face hub.
    method: one name or several (docs/methods.md).
    drop, drop_count, threshold: which rows fall; a tenth of them if none is given.
    output: folder or URL. The same call again finds what is done there, and goes on with it. Without it, the run lies
    in the temporary folder of the machine, which may be emptied; the same call finds it there.
    references: name of a reference set (unsafe, safe, ...) -> a file, or the rows, for every method that has this set.
    set, settings: any key of the job file, as set={"larf.layer": 5}, or larf={"layer": 5}, max_tokens=1024. Where a key
    means a file of references or prompts, it may have the rows.
    address: of a Ray cluster to join; default: RAY_ADDRESS, or Ray on this machine, in a process of its own.
    quiet: show warnings alone. The arguments are read and not changed.

    Raises errors.TamisError: ConfigError for arguments, InputError for data, ClusterError, StorageError, ...;
    IncompleteError where shards were set aside; DriftError after the output was written, which `load` then reads.
    KeyboardInterrupt (Ctrl-C) once the run has ended in order: the same call goes on with it.

        run = tamis.curate("data/*.jsonl", model="path/to/model", method=["larf", "saft"], drop=0.1, output="out/")
        run.kept.to_pandas()
    """
    given = Arguments(data, model, method, drop, drop_count, threshold, artifact, revision, workers, references, set)
    with tempfile.TemporaryDirectory(prefix="tamis-job-") as folder:
        job = make_job(given, settings, output, quiet, folder)
        run(["curate", job.path, *_at(address)], quiet)
        return load(job.output, storage_options=job.options)


def plan(
    data: Any,
    model: str | os.PathLike[str] | None = None,
    method: str | Sequence[str] | None = None,
    drop: float | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    drop_count: int | None = None,
    threshold: float | None = None,
    artifact: str | os.PathLike[str] | Run | None = None,
    revision: str | None = None,
    workers: int | Mapping[str, int] | None = None,
    references: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,
    address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> Plan:
    """Look at what `curate` would do with the same arguments: `tamis plan`. Nothing is run, and nothing is written but
    rows that are in memory (which `curate` then finds).

    Raises errors.TamisError as `curate`; a plan that says that the run would fail is returned, see Plan.will_fail.

        print(tamis.plan(rows, model="path/to/model", method="contrast"))
    """
    given = Arguments(data, model, method, drop, drop_count, threshold, artifact, revision, workers, references, set)
    with tempfile.TemporaryDirectory(prefix="tamis-job-") as folder:
        job = make_job(given, settings, output, quiet, folder)
        said = attempt(["plan", job.path, *_at(address)], quiet)
    if said.plan is None or (said.code != 0 and not said.plan["will_fail"]):
        raise error_of(said)
    return Plan(said.plan, tuple(said.warnings), tuple(said.notes))


def _at(address: str | None) -> list[str]:
    return [] if address is None else ["--address", address]
