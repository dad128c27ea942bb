"""`tamis init`: a job file with comments, for the data that lies there.

The data is read as `tamis plan` reads it; with a model, the very job that is written is planned first. So the file can
be planned without a change. No text of the corpus goes into it, only names of files and columns, and counts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.commands.screens import size
from tamis.pipeline.errors import ConfigError, InputError, InternalError
from tamis.pipeline.inputs.shards import Scanned
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.job.sections import DEFAULT_DROP
from tamis.pipeline.planning.plan import Plan, list_inputs, make_plan, reading_notes
from tamis.pipeline.planning.sampling import remarks_of
from tamis.pipeline.planning.scanning import dialect_of, scan_files
from tamis.pipeline.terminal.progress import at_work, phase
from tamis.pipeline.terminal.text import shown

OUTPUT = "out"
_NOT_YET = "a-model-that-is-not-named-yet"
_MOST_FILES, _WIDTH = 10, 118
_TOP = ("input", "output", "model", "method", "selection")


@dataclass(frozen=True)
class Written:
    """path: of the job file. seen: what was seen, in lines. will_fail: the run would fail as the file is."""

    path: str
    files: int
    rows: int
    seen: tuple[str, ...]
    warnings: tuple[str, ...]
    will_fail: bool
    has_model: bool


@dataclass(frozen=True)
class _Seen:
    """What was seen of the input. plan: of the job, where a model is named."""

    files: Sequence[tuple[Scanned, Dialect]]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    plan: Plan | None


@at_work()
def init(overlay: Mapping[str, Any], assignments: Sequence[str], path: str, *, force: bool = False) -> Written:
    """Write the job file. overlay, assignments: as for `load_job`; the model may be missing.

    Raises ConfigError if the file is there already and `force` is not set, and as `make_plan` and `load_job` do. Then
    nothing is written.
    """
    _check_place(path, force)
    job, given = _job(overlay, assignments)
    seen = _look(job, given)
    if seen.plan is not None and "overlong" not in given and seen.plan.estimate.overlong > job.max_quarantined:
        # With the default the run would end; that long rows are cut instead is said where it is written.
        job, given = _job({**overlay, "overlong": "keep_end"}, assignments)
        seen = _look(job, given)
    text = "\n".join(_lines(job, given, seen, path)) + "\n"
    _write(path, text, force, job, given)
    lines = (*_of_files(seen), *(f"note: {note}" for note in seen.notes))
    will_fail = seen.plan is not None and seen.plan.will_fail
    rows = sum(scanned.rows for scanned, _ in seen.files)
    return Written(path, len(seen.files), rows, lines, seen.warnings, will_fail, "model" in given)


def _check_place(path: str, force: bool) -> None:
    if Path(path).suffix not in {".yaml", ".yml"}:
        raise ConfigError(f"--output {path}: a job file ends in .yaml")
    if os.path.lexists(path) and not force:
        raise ConfigError(f"--output {path} is there already; choose another name, or write over it with --force")


def _job(overlay: Mapping[str, Any], assignments: Sequence[str]) -> tuple[Job, dict[str, Any]]:
    """The job, and its keys that were given, as the file will have them."""
    named: dict[str, Any] = {"model.name": _NOT_YET, **overlay}  # assignments override both
    if not any(word.lstrip().startswith("schedule") for word in assignments):
        named.setdefault("output", _free(OUTPUT))
    job = load_job(None, named, assignments)
    if not job.masks_tokens and "selection" not in job.model_fields_set:
        named["selection.drop"] = DEFAULT_DROP
        job = load_job(None, named, assignments)
    given = job.model_dump(mode="json", exclude_unset=True)
    if job.schedule is not None:
        del given["output"]  # it follows from the schedule
    if job.model.name == _NOT_YET:
        del given["model"]["name"]
        given = {key: value for key, value in given.items() if key != "model" or value}
    return job, given


def _free(name: str) -> str:
    """This name of a folder, or the first one with a number that does not exist: an output belongs to one job."""
    number, found = 1, name
    while os.path.lexists(found):
        number += 1
        found = f"{name}-{number}"
    return found


def _look(job: Job, given: Mapping[str, Any]) -> _Seen:
    phase("init", "looking for the input files")
    found = list_inputs(job)
    scanned = scan_files(found.files, job)
    with_rows = [each for each in scanned if each.rows]
    if "name" in given.get("model", {}):
        plan = make_plan(job, scanned, found=found)
        dialects = {planned.file.name: planned.dialect for planned in plan.files}
        files = [(each, dialects[each.file.name]) for each in with_rows]
        return _Seen(files, plan.notes, plan.warnings, plan)
    problems, files = [], []
    for each in with_rows:
        try:
            files.append((each, dialect_of(each, job.input.dialect, job.input.columns, job.join)))
        except ValueError as error:
            problems.append(f"{each.file.name}: {error}")
    if problems:
        raise InputError(f"the conversations of {len(problems)} file(s) are not understood:", problems)
    said = remarks_of(files)
    return _Seen(files, said.notes, (*found.notes, *reading_notes(scanned), *said.warnings), None)


# --- the text -----------------------------------------------------------------------------------------------------


def _lines(job: Job, given: Mapping[str, Any], seen: _Seen, path: str) -> Iterator[str]:
    version = importlib.metadata.version("tamis")
    yield f"# A job of tamis, written by `tamis init` ({version}) for the data that it saw. Paths are relative to the"
    yield "# folder in which a command is started."
    yield "#"
    yield from _comment(f"tamis plan {path}", "says what would be done, and does nothing")
    yield from _comment(f"tamis curate {path}", "does it; the same command again goes on where it was stopped")
    yield from _comment("tamis schema", "prints every key with what it means")
    yield "#"
    yield "# Seen:"
    for line in (*_of_files(seen), *(f"note: {n}" for n in seen.notes), *(f"warning: {w}" for w in seen.warnings)):
        yield from _wrapped(line)
    yield ""
    yield from _section("input", given)
    if not given["input"].get("columns") and "dialect" not in given["input"]:
        settings = dict.fromkeys(_setting(scanned, dialect) for scanned, dialect in seen.files[:_MOST_FILES])
        if len(settings) == 1:
            yield "  # Found in the first rows; to set it by hand:"
            yield from (f"  # {line}" for line in next(iter(settings)))
    yield ""
    if "output" in given:
        yield "# Folder or address of the output; made if missing. It belongs to one job: for other settings, another."
        yield from _section("output", given)
        yield ""
    if "name" in given.get("model", {}):
        yield from _section("model", given)
    else:
        yield "# A folder in transformers' format, or a name on the Hugging Face hub. Set it here, or with --model."
        yield "# model: path/to/model"
        if "model" in given:
            raise ConfigError("--set model...: name the model, too, with --model")
    yield ""
    yield from _prose(
        "How to score: contrast, larf, saft, matching, compliance, or several of them as a list (the first one "
        "decides, the others stand beside it in scores/); toss and toss-pro mask tokens instead of dropping samples."
    )
    yield from _section("method", given)
    yield ""
    if "selection" in given:
        yield "# What falls: a share of the scored rows (drop), a number of rows (drop_count), or above a threshold."
        yield from _section("selection", given)
        yield ""
    yield from _long_rows(job, given, seen)
    for key in given:
        if key not in (*_TOP, "overlong", "max_tokens"):
            yield from _section(key, given)
            yield ""
    yield "# The usual values of what else is often set:"
    for key, about in (
        ("max_quarantined", "share of rows that cannot be used, above which the run ends"),
        ("shard_rows", "rows in one unit of work, which is done again after a crash"),
        ("keep_captures", "vectors: what `tamis tune` and `tamis refit` read"),
        ("seed", "of a control"),
    ):
        if key not in given:
            yield f"# {f'{key}: {_value(getattr(job, key))}':<26} # {about}"


def _long_rows(job: Job, given: Mapping[str, Any], seen: _Seen) -> Iterator[str]:
    if seen.plan is None:
        yield from _prose(
            "The longest conversation in tokens, and what becomes of longer ones: quarantine, keep_end or keep_start."
        )
    else:
        estimate = seen.plan.estimate
        long = round(estimate.overlong * estimate.sampled)
        yield (
            f"# Of {estimate.sampled:,} sampled rows, {long:,} have more than max_tokens "
            f"({seen.plan.max_tokens:,} at most); a row has {estimate.tokens_per_row:,.0f} on average."
        )
        if given.get("overlong") == "keep_end" and long:
            yield from _prose(
                "quarantine, the usual way, sets them aside: here so many that the run would end. keep_end reads the "
                "last max_tokens tokens of each in its place; raise max_tokens if the model takes more."
            )
        else:
            yield "# What becomes of longer ones: quarantine, keep_end or keep_start."
    for key in ("max_tokens", "overlong"):
        if key in given:
            yield from _section(key, given)
        else:
            yield f"# {key}: {_value(getattr(job, key))}"
    yield ""


def _of_files(seen: _Seen) -> Iterator[str]:
    total = sum(scanned.rows for scanned, _ in seen.files)
    count = len(seen.files)
    bytes_ = size(sum(scanned.file.bytes for scanned, _ in seen.files))
    yield f"{total:,} rows in {count:,} file{'s' * (count != 1)}, {bytes_}"
    for scanned, dialect in seen.files[:_MOST_FILES]:
        file = scanned.file
        kind = file.format + (f" ({file.compression})" if file.compression else "")
        yield f"{file.name}: {kind}, {scanned.rows:,} rows, {dialect.describe()}"
    if count > _MOST_FILES:
        yield f"and {count - _MOST_FILES:,} more"


def _setting(scanned: Scanned, dialect: Dialect) -> tuple[str, ...]:
    """The lines that give this dialect by hand."""
    named = {part: column for part, column in dialect.columns if column in scanned.columns}
    by_name = (f"dialect: {_value(dialect.name)}",) if dialect.setting(()).startswith("input.dialect") else ()
    return *by_name, f"columns: {_value(named)}"


def _comment(command: str, about: str) -> Iterator[str]:
    yield f"#   {shown(command):<28} {about}"


def _prose(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _wrapped(line: str) -> Iterator[str]:
    """A line of any length as a comment, broken between words."""
    here = "#  "
    for word in shown(line).split(" "):
        if len(here) + len(word) + 1 > _WIDTH and here.strip("# "):
            yield here
            here = "#     "
        here += f" {word}"
    yield here


def _section(key: str, given: Mapping[str, Any]) -> Iterator[str]:
    """One key with all below it, in block style."""
    if key in given:
        text = yaml.safe_dump({key: given[key]}, default_flow_style=False, sort_keys=False, width=10_000)
        yield from text.splitlines()


def _value(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str | Mapping):
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
        return text.removesuffix("\n").removesuffix("\n...")
    return json.dumps(value)


# --- the file -----------------------------------------------------------------------------------------------------


def _write(path: str, text: str, force: bool, job: Job, given: Mapping[str, Any]) -> None:
    """Write the file once it is known to be the job that was looked at. Until then, what is there stays."""
    place = os.path.realpath(path)  # of a link, the file that it names
    beside = f"{place}.{os.getpid()}.new.yaml"
    try:
        with _removed(beside):
            with open(beside, "x", encoding="utf-8") as file:
                file.write(text)
            _check_file(beside, path, job, given)
            if not force:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(text)
                return
            with suppress(FileNotFoundError):
                shutil.copymode(place, beside)
            os.replace(beside, place)
    except FileExistsError:
        raise ConfigError(
            f"--output {path} is there already; choose another name, or write over it with --force"
        ) from None
    except OSError as error:
        raise ConfigError(f"--output {path} cannot be written ({error.strerror})") from None


@contextmanager
def _removed(path: str) -> Iterator[None]:
    """Afterwards, this file is not there."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _check_file(file: str, path: str, job: Job, given: Mapping[str, Any]) -> None:
    """InternalError unless the file is the job that was looked at. path: where it is to lie."""
    overlay = {} if "model" in given else {"model.name": job.model.name}
    try:
        same = load_job(file, overlay) == job
    except ConfigError:
        same = False
    if not same:
        raise InternalError(f"the job file for {path} would not mean what was looked at; please report it")
