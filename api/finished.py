"""A finished run, and what can be done with it: its tables, its report, another cut, labels, an export."""

from __future__ import annotations

import copy
import functools
import glob
import hashlib
import html
import json
import os
import sys
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tamis.command import run as command
from tamis.corpora import storage_errors, written
from tamis.pipeline.errors import ConfigError, DamagedError, IncompleteError
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import DROPPED, INCOMPLETE, KEPT, MANIFEST, QUARANTINE, REPORT, SCORES
from tamis.pipeline.storage.credentials import secret_in
from tamis.pipeline.storage.store import Sealed, Store
from tamis.shown import in_notebook

if TYPE_CHECKING:
    from collections.abc import Iterator

    import datasets

_COUNTED = {KEPT: "kept", DROPPED: "dropped", QUARANTINE: "quarantined", SCORES: "rows_in"}


@dataclass(frozen=True)
class Report:
    """The page of a run: what was removed and why. It shows sample texts, which may be offensive.

    A notebook shows it where it is the value of a cell. page: its HTML. address: where it lies.
    """

    page: str = field(repr=False)
    address: str

    def _repr_html_(self) -> str:
        """In a frame of its own, which cannot reach the notebook."""
        inside = html.escape(self.page, quote=True)
        frame = 'sandbox="allow-scripts allow-downloads" style="width: 100%; height: 42em; border: 1px solid #8888"'
        return f'<iframe srcdoc="{inside}" title="report of tamis" {frame}></iframe>'


class Run:
    """A finished run in its output folder; `curate`, `select` and `load` return one. Nothing of it changes.

    kept, dropped, quarantined, scores: its tables as datasets.Dataset, read when they are first asked for and then from
    the disk; `.to_pandas()` makes a frame of one.
    """

    def __init__(self, store: Store, manifest: Mapping[str, Any]) -> None:
        self._store = store
        self._manifest = manifest

    @property
    def output(self) -> str:
        """The folder, or the URL."""
        return self._store.path()

    @property
    def storage_options(self) -> dict[str, Any]:
        """The options of its storage."""
        return dict(self._store.options)

    @property
    def manifest(self) -> dict[str, Any]:
        """manifest.json, each time as a copy: counts, settings, versions, checksums, ..."""
        return copy.deepcopy(dict(self._manifest))

    @property
    def counts(self) -> dict[str, int]:
        """Rows: rows_in = kept + dropped + quarantined."""
        return dict(self._manifest["counts"])

    @property
    def warnings(self) -> list[str]:
        """What the report warns of."""
        return list(self._manifest.get("warnings", ()))

    @cached_property
    def kept(self) -> datasets.Dataset:
        """The rows to train on, with the columns, types and metadata of the input. Raises as `scores`."""
        return self._table(KEPT)

    @cached_property
    def dropped(self) -> datasets.Dataset:
        """The removed rows, with method, score, quantile and reason. Raises as `scores`."""
        return self._table(DROPPED)

    @cached_property
    def quarantined(self) -> datasets.Dataset:
        """The rows that could not be read or scored, with the reason. Raises as `scores`."""
        return self._table(QUARANTINE)

    @cached_property
    def scores(self) -> datasets.Dataset:
        """One row per row of the input, in its order: sample_id, source, row, the score of each method, decision, ...

        Raises DamagedError where a file is missing, or has not the size with which it was written.
        """
        return self._table(SCORES)

    def report(self, open: bool | None = None) -> Report:
        """The report. open: whether to open it in the browser; default: in a terminal with a screen for windows, and
        not in a notebook, which shows what this returns. Raises DamagedError where it is missing."""
        with storage_errors():
            try:
                page = self._store.read(REPORT).decode("utf-8")
            except FileNotFoundError:
                raise DamagedError(f"{self._store.path(REPORT)}: is missing; `tamis report` writes it anew") from None
        if open or (open is None and _has_window()):
            address = self._store.path(REPORT)
            webbrowser.open(Path(address).as_uri() if self._store.is_local else _as_file(page))
        return Report(page, self._store.path(REPORT))

    def _table(self, part: str) -> datasets.Dataset:
        import datasets as library

        listed = {
            file["name"]: file["bytes"] for file in self._manifest["files"] if file["name"].startswith(f"{part}/")
        }
        there = self._store.details(part)
        for name, size in listed.items():
            found = there.get(name.rpartition("/")[2])
            if found is None or int(found["size"]) != size:
                what = "is missing" if found is None else "has not the size with which it was written"
                raise DamagedError(
                    f"{self._store.path(name)}: {what}; put it back from a copy, or run it again elsewhere"
                )
        if not self._manifest["counts"][_COUNTED[part]]:  # which `datasets` refuses to read
            empty = [self._store.read_table(name).schema for name in list(listed)[:1]]
            return library.Dataset(empty[0].empty_table()) if empty else library.Dataset.from_dict({})
        paths, cache = [self._store.path(name) for name in sorted(listed)], None
        if not self._store.is_local:
            with storage_errors():
                paths, cache = self._fetch(sorted(listed))
        with _no_bars():
            # It takes a path for a glob. `load_dataset` would do the same, and tell the hub that it was called.
            files = [glob.escape(path) for path in paths]
            read: datasets.Dataset = library.Dataset.from_parquet(files, cache_dir=cache)
            return read

    def _fetch(self, names: Sequence[str]) -> tuple[list[str], str]:
        """The files of an object store in a folder that lasts as long as this process, and a folder for a cache."""
        folder = tempfile.mkdtemp(dir=_fetched().name)
        sums = {file["name"]: file["sha256"] for file in self._manifest["files"]}
        paths = []
        for name in names:
            paths.append(os.path.join(folder, name.rpartition("/")[2]))
            Path(paths[-1]).write_bytes(self._store.read(Sealed(name, sums[name])))
        return paths, os.path.join(folder, "cache")

    def __repr__(self) -> str:
        counts = self._manifest["counts"]
        said = ", ".join(f"{counts.get(name, 0):,} {name}" for name in ("kept", "dropped", "quarantined"))
        return f"Run({self.output!r}: {counts['rows_in']:,} rows: {said})"


@dataclass(frozen=True)
class Exported:
    """output: the folder. rows: how many. trainer: for which. start: the config file or script to begin with."""

    output: str
    rows: int
    trainer: str
    start: str


def load(output: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Run:
    """The finished run in a folder or at a URL. Reads the manifest alone.

    Raises errors.ConfigError where there is none, and for options that look like credentials; errors.IncompleteError
    where shards were set aside: the same `curate` again retries them.

        tamis.load("out/").scores.to_pandas()
    """
    store = _at(output, storage_options)
    with storage_errors():
        if not store.exists(MANIFEST):
            if store.exists(INCOMPLETE):
                raise IncompleteError(f"{store.path()}: some shards were set aside; the same call again retries them")
            raise ConfigError(f"{store.path()}: no finished run here (there is no {MANIFEST}); see `tamis status`")
        return Run(store, facts_in(store, MANIFEST))


def select(
    run: Run | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    drop: float | None = None,
    drop_count: int | None = None,
    threshold: float | None = None,
    by: str | None = None,
    control: str | None = None,
    within: str | None = None,
    seed: int | None = None,
    allow_majority: bool = False,
    certify: float | None = None,
    labels: Any = None,
    trust_labels: bool = False,
    delta: float | None = None,
    up_to: float | None = None,
    address: str | None = None,
    quiet: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Run:
    """Cut the scores of a finished run anew, into another output, without the model: `tamis select` (docs/select.md).

    run: a Run, or its output. certify, labels, delta, up_to: keep the most rows of which at most this share is harmful
    by the labels (docs/certify.md); labels: as for `evaluate`. storage_options: of a run that is given as its output.

    Raises errors.TamisError, as the command.

        harsher = tamis.select(run, "out-30/", drop=0.3)
    """
    store = _store(run, storage_options)
    flags = {
        "drop": drop,
        "drop-count": drop_count,
        "threshold": threshold,
        "by": by,
        "control": control,
        "within": within,
        "seed": seed,
        "certify": certify,
        "delta": delta,
        "up-to": up_to,
        "address": address,
    }
    words = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    words += ["--allow-majority"] * allow_majority + ["--trust-labels"] * trust_labels
    with _labels(labels) as found:
        words += [] if found is None else [f"--labels={found}"]
        command(["select", store.path(), f"--output={os.fspath(output)}", *words, *_options(store)], quiet)
    return load(output, storage_options=store.options)


def evaluate(
    run: Run | str | os.PathLike[str],
    labels: Any,
    *,
    quiet: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Compare the scores and the decision of a finished run with labels: `tamis evaluate --json` (docs/evaluate.md).

    labels: a file, a column of the corpus, or the rows (a list of dicts, a frame, ...): sample_id or row, and harmful
    (1 or 0). Returns the figures as plain values; `notes` in it says what they cannot tell.

    Raises errors.InputError for labels that cannot be used, errors.ConfigError where there is no finished run.

        tamis.evaluate(run, [{"row": 0, "harmful": 1}, {"row": 1, "harmful": 0}])["methods"]
    """
    store = _store(run, storage_options)
    with _labels(labels) as found:
        if found is None:
            raise ConfigError("labels: a file, a column of the corpus or rows are meant, not None")
        said = command(["evaluate", store.path(), f"--labels={found}", "--json", *_options(store)], quiet)
    figures: dict[str, Any] = json.loads(said.out)
    return figures


def export(
    run: Run | str | os.PathLike[str],
    trainer: str,
    output: str | os.PathLike[str],
    *,
    quiet: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the kept rows as a trainer reads them, with its config file or script: `tamis export` (docs/trainers.md).

    trainer: transformers, trl, axolotl, ... Raises errors.ConfigError for an output that holds something.

        tamis.export(run, "trl", "for-trl/").start
    """
    store = _store(run, storage_options)
    words = ["export", store.path(), f"--for={trainer}", f"--output={os.fspath(output)}", *_options(store)]
    result = command(words, quiet).result or {}
    return Exported(Store(os.fspath(output)).path(), int(result["rows"]), trainer, str(result["start"]))


def _store(run: Run | str | os.PathLike[str], options: Mapping[str, Any] | None) -> Store:
    if isinstance(run, Run):
        if options is not None:
            raise ConfigError("storage_options: the run has its own; leave them out")
        return Store(run.output, run.storage_options)
    return _at(run, options)


def _at(output: str | os.PathLike[str], options: Mapping[str, Any] | None) -> Store:
    """ConfigError for options that look like credentials: those of a process are seen by everyone on the machine."""
    if complaint := secret_in(options or {}):
        raise ConfigError(complaint)
    return Store(os.fspath(output), dict(options or {}))


def _options(store: Store) -> list[str]:
    return [f"--storage-options={name}={json.dumps(value)}" for name, value in store.options.items()]


@contextmanager
def _labels(labels: Any) -> Iterator[str | None]:
    """The labels as the command takes them: a file or the name of a column. Rows lie in a file meanwhile."""
    if labels is None or isinstance(labels, str | os.PathLike):
        yield None if labels is None else os.fspath(labels)
        return
    with tempfile.TemporaryDirectory(prefix="tamis-labels-") as folder:
        paths = written(labels, Store(folder), "labels").paths
        if len(paths) > 1:
            raise ConfigError("labels: too many for one file; write them into a file and give its path")
        yield paths[0]


@functools.cache
def _fetched() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="tamis-fetched-")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of `datasets`, if they are on."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _has_window() -> bool:
    """Whether a person is at this terminal, and a browser has a window: one of texts would take the terminal away."""
    if in_notebook() or not sys.stdout.isatty():
        return False
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _as_file(page: str) -> str:
    """The page as a file of this machine, which this user alone can read; a browser opens no object store."""
    name = hashlib.sha256(page.encode()).hexdigest()[:16]
    number, path = tempfile.mkstemp(prefix=f"tamis-report-{name}-", suffix=".html")
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(page)
    return Path(path).as_uri()
