"""The arguments of `tamis.curate` and `tamis.plan` as a job file, which the command then reads."""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamis.corpora import addresses, check_kind, check_rows, storage_errors, written
from tamis.finished import Run
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.job.methods import known
from tamis.pipeline.storage.store import Store
from tamis.shown import Display

INPUT = ".input"
"""What is added to the name of an output, for the folder of data that were in memory."""

_PROMPTS = "over_rejection_prompts"
_RULES = ("drop", "drop_count", "threshold")


@dataclass(frozen=True)
class Arguments:
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
        """Dotted key of the job file -> value, but for the input and the output. ConfigError for a key twice, also as a
        part of a section that is given whole: one of the two would be lost."""
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
        for key in keys:
            for section in _above(key):
                if section in keys:
                    raise ConfigError(
                        f"{section} is given whole, and {key} beside it; write each key of {section} with its dots"
                    )
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
class JobFile:
    """A job file, and the output and storage options that it names."""

    path: str
    output: str
    options: Mapping[str, Any]


def make_job(
    given: Arguments, settings: Mapping[str, Any], output: str | os.PathLike[str] | None, quiet: bool, folder: str
) -> JobFile:
    """Check the arguments; write data that are in memory beside the output, and the job file into `folder`.

    Raises ConfigError, InputError and StorageError.
    """
    keys = given.keys(settings)
    for key in keys:
        if key in {"input.path", "input"} or key.partition(".")[0] in {"output", "schedule"}:
            raise ConfigError(f"{key}: in Python this follows from the arguments data and output; leave it out")
    found = addresses(given.data)
    files = {key: value for key, value in keys.items() if _is_rows(key, value)}
    # What can be said of the job is said before anything is written.
    check_kind(given.data)
    for key, value in files.items():
        check_rows(_as_rows(key, value), key)
    asked = {**keys, **dict.fromkeys(files, "rows"), "input.path": found or "rows"}
    to = "unnamed" if output is None else os.fspath(output)
    job = load_job(None, _plain({**asked, "output": to}))
    own = _own_folder() if output is None else ""
    store = Store(os.path.join(own, "data")) if own else _beside(to, job.storage_options)
    display = Display(quiet)
    keys["input.path"] = found or _kept(given.data, store, "data", display)
    for key, value in files.items():
        paths = _kept(_as_rows(key, value), store, key, display)
        if len(paths) > 1:
            raise ConfigError(f"{key}: too many rows for one file; write them into a file and give its path")
        keys[key] = paths[0]
    keys = _plain(keys)
    if own:
        to = os.path.join(own, f"{'-'.join(job.method)}-{_digest(keys, load_job(None, {**keys, 'output': to}))}")
        display.note(f"the run lies in {to}; name an output to keep it")
    file = os.path.join(folder, "job.yaml")
    Path(file).write_text(yaml.safe_dump(_nested({**keys, "output": to}), sort_keys=False), encoding="ascii")
    return JobFile(file, to, job.storage_options)


def _above(key: str) -> list[str]:
    """The sections that a dotted key is in."""
    names = key.split(".")
    return [".".join(names[:count]) for count in range(1, len(names))]


def _beside(output: str, options: Mapping[str, Any]) -> Store:
    """The folder of data that were in memory."""
    where = Store(output, options).url.rstrip("/")
    scheme, _, place = where.rpartition("://")
    if scheme and "/" not in place:
        raise ConfigError(f"output: {output} is a whole bucket; name a folder in it")
    return Store(where + INPUT, options)


def _kept(data: Any, store: Store, name: str, display: Display) -> list[str]:
    files = written(data, store, name, lambda rows: display.beat(f"{name}: {rows:,} rows are beside the output"))
    display.close()
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
    with storage_errors():
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"output is missing, and {path} is not a folder of yours alone; name one "
                          "with output=, or remove that folder")  # fmt: skip
    return path


def _digest(keys: Mapping[str, Any], job: Job) -> str:
    """What tells one call from another: the version, the settings, and the files of this machine that they name."""
    stamps = [_stamps(files) for files in sorted(_files(job))]
    facts = [importlib.metadata.version("tamis"), keys, stamps]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _files(job: Job) -> set[str]:
    """The files and folders of this machine that a job names. Not each text of it is one: a method may be named so."""
    named: list[str | None] = [job.model.name, job.model.template, job.artifact]
    for method in job.method:
        named += [*job.references_of(method).values(), *job.models_of(method).values()]
        named.append(getattr(job.of(method), _PROMPTS, None))
    local = {text for text in named if text is not None and "://" not in text}
    for pattern in job.input.path:
        if "://" not in pattern:
            local |= set(glob.glob(pattern, recursive=True)) or {pattern}
    return local


def _stamps(path: str) -> list[tuple[str, int, int]]:
    """Name, size and time of a file, or of those in a folder; none for what is not there."""
    found = []
    if "\0" in path:
        return []
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    for file in (path, *inside):
        with suppress(OSError):  # not there; or a template, which may be a text of any length
            told = os.stat(file)
            if stat.S_ISREG(told.st_mode):
                found.append((os.path.abspath(file), told.st_size, told.st_mtime_ns))
    return sorted(found)
