"""`tamis.curate` and `tamis.plan`: from arguments to a job, which the command itself then runs (command.py)."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamis.command import attempt, error_of, run
from tamis.corpora import addresses, check_kind, written
from tamis.finished import Run, load
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.job.methods import known
from tamis.pipeline.storage.store import Store
from tamis.shown import Display

INPUT = ".input"
"""What is added to the name of an output, for the folder of data that were in memory."""

_PROMPTS = "over_rejection_prompts"
_RULES = ("drop", "drop_count", "threshold")


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
    IncompleteError and DriftError after the output was written, which `load` then reads.

        run = tamis.curate("data/*.jsonl", model="path/to/model", method=["larf", "saft"], drop=0.1, output="out/")
        run.kept.to_pandas()
    """
    given = _Arguments(data, model, method, drop, drop_count, threshold, artifact, revision, workers, references, set)
    with tempfile.TemporaryDirectory(prefix="tamis-job-") as folder:
        job = _Job.made(given, settings, output, quiet, folder)
        run(["curate", job.file, *_at(address)], quiet)
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
    given = _Arguments(data, model, method, drop, drop_count, threshold, artifact, revision, workers, references, set)
    with tempfile.TemporaryDirectory(prefix="tamis-job-") as folder:
        job = _Job.made(given, settings, output, quiet, folder)
        said = attempt(["plan", job.file, *_at(address)], quiet)
    if said.plan is None or (said.code != 0 and not said.plan["will_fail"]):
        raise error_of(said)
    return Plan(said.plan, tuple(said.warnings), tuple(said.notes))


def _at(address: str | None) -> list[str]:
    return [] if address is None else ["--address", address]


@dataclass(frozen=True)
class _Arguments:
    """The arguments of `curate` by these names."""

    data: Any
    model: Any
    method: Any
    drop: Any
    drop_count: Any
    threshold: Any
    artifact: Any
    revision: Any
    workers: Any
    references: Mapping[str, Any] | None
    set: Mapping[str, Any] | None

    def keys(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Dotted key of the job file -> value, but for the input and the output. ConfigError for a key twice."""
        artifact = self.artifact.output if isinstance(self.artifact, Run) else self.artifact
        named = {
            "model.name": self.model,
            "model.revision": self.revision,
            "method": self.method,
            **{f"selection.{rule}": getattr(self, rule) for rule in _RULES},
            "artifact": artifact,
            "workers": self.workers,
        }
        keys = {key: value for key, value in named.items() if value is not None}
        flat: list[tuple[str, Any]] = list((self.set or {}).items())
        for name, value in settings.items():
            inner = value.items() if isinstance(value, Mapping) else None
            flat += [(name, value)] if inner is None else [(f"{name}.{key}", item) for key, item in inner]
        for key, value in flat:
            if not isinstance(key, str):
                raise ConfigError(f"set: a key of the job file is a text, as 'larf.layer', not {type(key).__name__}")
            if key in keys:
                raise ConfigError(f"{key} is given twice; give it once")
            keys[key] = value
        for key in self._of_references(keys):
            if key in keys:
                raise ConfigError(f"{key} is given twice, as references, too; give it once")
            keys[key] = (self.references or {})[key.rpartition(".")[2].removesuffix("_references")]
        return keys

    def _of_references(self, keys: Mapping[str, Any]) -> list[str]:
        """The key of each reference set that `references` names, of every method that has it."""
        methods = keys.get("method", ())
        kinds = [known()[name].kind for name in ([methods] if isinstance(methods, str) else methods) if name in known()]
        there = {(kind.section_name(), name): None for kind in kinds for name in kind.references}
        for name in self.references or {}:
            if name not in {known_name for _, known_name in there}:
                have = ", ".join(dict.fromkeys(known_name for _, known_name in there)) or "none"
                raise ConfigError(f"references: no method of the job has a set {name!r}; they have {have}")
        return [f"{section}.{name}_references" for section, name in there if name in (self.references or {})]


@dataclass(frozen=True)
class _Job:
    """A job file, and the output and storage options that it names."""

    file: str
    output: str
    options: Mapping[str, Any]

    @staticmethod
    def made(given: _Arguments, settings: Mapping[str, Any], output: Any, quiet: bool, folder: str) -> _Job:
        """Check the arguments; write data that are in memory, and the job file into `folder`."""
        keys = given.keys(settings)
        for key in ("input.path", "input", "output", "schedule"):
            if key in keys:
                raise ConfigError(f"{key}: in Python this follows from the arguments data and output; leave it out")
        check_kind(given.data)
        found = addresses(given.data)
        # What can be said of the job is said before anything is written.
        files = {key: value for key, value in keys.items() if _is_rows(key, value)}
        asked = {**keys, **dict.fromkeys(files, "rows"), "input.path": found or ["rows"]}
        job = load_job(None, {**_plain(asked), "output": os.fspath(output) if output is not None else "none"})
        for key, value in files.items():
            check_kind(value, key)
        own = None if output is not None else _own_folder()
        to = os.fspath(output) if own is None else ""
        store = Store(os.path.join(own, "data") if own is not None else to.rstrip("/") + INPUT, job.storage_options)
        display = Display(quiet)
        keys["input.path"] = found or _kept(given.data, store, "data", display)
        for key, value in files.items():
            [keys[key]] = _kept(_as_rows(key, value), store, key, display)
        keys = _plain(keys)
        if own is not None:
            to = os.path.join(own, f"{'-'.join(job.method)}-{_digest(keys)}")
            display.note(f"the run lies in {to}; name an output to keep it")
        keys["output"] = to
        file = os.path.join(folder, "job.yaml")
        Path(file).write_text(yaml.safe_dump(_nested(keys), sort_keys=False), encoding="ascii")
        return _Job(file, to, job.storage_options)


def _kept(data: Any, store: Store, name: str, display: Display) -> list[str]:
    files = written(data, store, name)
    for note in files.notes:
        display.note(note)
    return files.paths


def _is_rows(key: str, value: Any) -> bool:
    """Whether this key means a file, and has rows in its place."""
    name = key.rpartition(".")[2]
    return (name.endswith("_references") or name == _PROMPTS) and not isinstance(value, str | os.PathLike | None)


def _as_rows(key: str, value: Any) -> Any:
    """Prompts may be a list of texts."""
    if key.endswith(_PROMPTS) and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return [{"prompt": item} for item in value]
    return value


def _plain(value: Any) -> Any:
    """The value as a job file has it: paths as texts, tuples as lists, numbers of numpy as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or type(value) in (str, bool, int, float):
        return value
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise ConfigError(f"a setting has a value of type {type(value).__name__}, which no job file can hold")


def _nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections."""
    tree: dict[str, Any] = {}
    for dotted, value in keys.items():
        *parents, leaf = dotted.split(".")
        here = tree
        for name in parents:
            here = here.setdefault(name, {})
        here[leaf] = value
    return tree


# --- a run without an output ------------------------------------------------------------------------------------------


def _own_folder() -> str:
    """The folder of this user under the temporary folder. Nobody else can have put anything into it."""
    path = os.path.join(tempfile.gettempdir(), f"tamis-runs-{os.getuid()}")
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"output is missing, and {path} is not a folder of yours alone; name an output")
    return path


def _digest(keys: Mapping[str, Any]) -> str:
    """What tells one call from another: the settings, and the files of this machine that they name."""
    stamps = [_stamps(text) for text in sorted(_texts(keys)) if "://" not in text]
    return hashlib.sha256(json.dumps([keys, stamps], sort_keys=True).encode()).hexdigest()[:16]


def _texts(value: Any) -> set[str]:
    if isinstance(value, Mapping | list):
        inner = value.values() if isinstance(value, Mapping) else value
        return {text for item in inner for text in _texts(item)}
    return {value} if isinstance(value, str) else set()


def _stamps(path: str) -> list[tuple[str, int, int]]:
    """Name, size and time of the files that a path or glob means; none for a text that is no path."""
    found = []
    for top in sorted(glob.glob(path, recursive=True)) or [path]:
        for file in [top, *(os.path.join(folder, name) for folder, _, names in os.walk(top) for name in sorted(names))]:
            with suppress(OSError, ValueError):
                told = os.stat(file)
                if stat.S_ISREG(told.st_mode):
                    found.append((os.path.abspath(file), told.st_size, told.st_mtime_ns))
    return sorted(found)
