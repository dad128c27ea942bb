"""Datasets on the Hugging Face hub: the files of a config and a split, pinned to one commit.

`datasets` finds these files, by the dataset's card or by their names. No code of a dataset ever runs and nothing is
prepared. Readers open the files over hf://, so that each worker fetches only the shards it reads. The features are
those in the files themselves: features that only a card declares (dataset_info in README.md) are not applied.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from tamis.pipeline.errors import ConfigError, InputError, error_text
from tamis.pipeline.inputs.splits import splits_by_partition
from tamis.pipeline.storage.retrying import retrying

T = TypeVar("T")

SCHEME = "hf://"

_SHOWN_NAMES = 30
_HARMLESS_OPTIONS = frozenset({"name", "version", "data_dir", "data_files", "description", "features"}) | frozenset(
    {"chunksize", "batch_size", "block_size", "use_threads", "fragment_scan_options"}
)
"""Options of a config on the hub that do not change the rows: its name, its parts, and how much is read at a time."""


@dataclass(frozen=True)
class DatasetPart:
    """The part of a dataset to read: the job's input.config, input.split and input.revision."""

    config: str | None = None
    split: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class HubAddress:
    """A place in a repository. url: pinned to a commit, except in a bucket, which has none."""

    url: str
    repository: str
    commit: str
    is_dataset: bool


def pin(url: str, revision: str | None) -> HubAddress:
    """`url` with a commit: the present commit of `revision`, of the revision in the URL, or of the main branch.

    Raises InputError if it does not exist or this user may not read it, ConfigError if two revisions are given.
    """
    from huggingface_hub import HfApi, is_offline_mode, parse_hf_uri

    try:
        parsed = parse_hf_uri(url)
    except ValueError as error:
        raise InputError(f"{url}: write it as hf://datasets/ORG/NAME ({error_text(error)})") from None
    if is_offline_mode():
        raise InputError(
            f"{url}: HF_HUB_OFFLINE is set, so the hub may not be asked; unset it, or fetch the dataset before "
            f"(hf download {parsed.id} --repo-type dataset --local-dir FOLDER) and give the folder"
        )
    if parsed.type == "bucket":
        if revision is not None:
            raise ConfigError(f"input.revision: {url} is a bucket, which has no revisions; leave it out")
        return HubAddress(url, parsed.id, "", False)
    if revision is not None and parsed.revision not in (None, revision):
        raise ConfigError(f"input.revision is {revision}, and {url} has another one; leave one of them out")
    wanted = revision or parsed.revision
    hub = HfApi()
    with _explained(url, wanted):
        found = retrying(lambda: hub.repo_info(parsed.id, repo_type=parsed.type, revision=wanted), url)
        if found.gated:  # anyone may list it, but not read it
            retrying(lambda: hub.auth_check(parsed.id, repo_type=parsed.type), url)
    if parsed.type != "dataset" and not parsed.path_in_repo:
        raise InputError(f"{url}: a {parsed.type}, not a dataset; a dataset is hf://datasets/ORG/NAME")
    kind = {"dataset": "datasets/", "space": "spaces/"}.get(parsed.type, "")
    below = f"/{parsed.path_in_repo}" if parsed.path_in_repo else ""
    return HubAddress(f"{SCHEME}{kind}{parsed.id}@{found.sha}{below}", parsed.id, str(found.sha), not below)


@dataclass(frozen=True)
class PartFiles:
    """The URLs of the files of one config and split, in the order of `datasets`; those of all its splits; and what the
    plan says of it."""

    files: list[str]
    of_config: frozenset[str]
    notes: tuple[str, ...] = ()


def files_of(dataset: HubAddress, shown: str, part: DatasetPart) -> PartFiles:
    """The files of one config and split.

    Raises InputError if the dataset has several configs or splits and `part` names none of them, or if it cannot be
    read as files.
    """
    import datasets

    address = f"hf://datasets/{dataset.repository}"
    # By default, `datasets` leaves an empty folder and a lock in the user's cache.
    with tempfile.TemporaryDirectory() as cache, _quiet(datasets), _explained(shown, dataset.commit):
        given: dict[str, Any] = {"revision": dataset.commit, "cache_dir": cache}
        configs = _asked(lambda: datasets.get_dataset_config_names(address, **given), shown)
        config = chosen(configs, part.config, "config", shown)
        builder = _asked(lambda: datasets.load_dataset_builder(address, name=config, **given), shown)
    by_split = {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    if len(by_split) == 1:  # `datasets` has no rule for folders such as split=train/
        [urls] = by_split.values()
        below = {url.removeprefix(f"{dataset.url}/"): url for url in urls}
        by_split = {s: [below[f] for f in names] for s, names in splits_by_partition([*below]).items()} or by_split
    files = by_split[chosen(list(by_split), part.split, "split", shown)]
    # Newer versions of `datasets` refuse other repositories and local files by themselves.
    strange = [file for file in files if not file.startswith(f"{dataset.url}/")]
    if strange:
        raise InputError(f"{shown}: its card names files that are not of this revision, such as {strange[0]}")
    if options := _reading_options(builder.config, files):
        raise InputError(
            f"{shown}: its card wants its files read with {', '.join(options)}, which tamis does not know; convert it "
            "to Parquet, or set input.revision=refs/convert/parquet if the hub has done so"
        )
    known = frozenset(url for found in by_split.values() for url in found)
    return PartFiles(files, known, config_note(configs, part.config, shown))


DEFAULT = "default"
"""The config that `datasets` loads where none is named; the outputs of tamis have others beside it."""


def config_note(names: Sequence[str], wanted: str | None, shown: str) -> tuple[str, ...]:
    """What the plan says where the config was not named, and there are others."""
    others = [name for name in names if name != DEFAULT]
    if wanted is not None or DEFAULT not in names or not others:
        return ()
    return (f"{shown}: only the config {DEFAULT} is read, as `datasets` does, not {', '.join(others[:_SHOWN_NAMES])}",)


def chosen(names: Sequence[str], wanted: str | None, what: str, shown: str) -> str:
    """The config or split that the job names, the config called DEFAULT, or the only one. InputError lists them
    otherwise."""
    if wanted is None and what == "config" and DEFAULT in names:
        return DEFAULT
    listed = ", ".join(names[:_SHOWN_NAMES]) + (f" and {len(names) - _SHOWN_NAMES} more" * (len(names) > _SHOWN_NAMES))
    if wanted is not None:
        if wanted not in names:
            raise InputError(f"{shown}: has no {what} {wanted}; it has {listed or 'none'}")
        return wanted
    if len(names) != 1:
        raise InputError(
            f"{shown}: has {len(names)} {what}s: {listed}; choose one with --set input.{what}={names[0]}, or "
            "give the path of its files"
            if names
            else f"{shown}: holds no data files"
        )
    return names[0]


def _reading_options(config: Any, files: Sequence[str]) -> list[str]:
    """The card's options for reading the files, without those that only say which files they are."""
    defaults = type(config)()
    options = []
    for option in fields(config):
        value = getattr(config, option.name)
        if option.name in _HARMLESS_OPTIONS or value == getattr(defaults, option.name):
            continue
        if option.name == "sep" and value == "\t" and all(".tsv" in file for file in files):
            continue
        options.append(option.name)
    return options


def _asked(question: Callable[[], T], shown: str) -> T:
    """The answer of `datasets`, or an InputError with the reason why there is none."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return retrying(question, shown)
    except (InputError, HfHubHTTPError):
        raise
    except (OSError, ValueError, RuntimeError) as error:
        advice = ""
        if "script" in str(error):
            advice = "; if the hub has converted it to Parquet, set input.revision=refs/convert/parquet"
        raise InputError(f"{shown}: `datasets` finds nothing to read in it ({error_text(error)}){advice}") from None


@contextmanager
def _explained(shown: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub into InputErrors that say what to do."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise InputError(
            f"{shown}: its owner grants access one by one; ask for it on the dataset's page, and set HF_TOKEN"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(f"{shown}: not found on the hub; check the name, or set HF_TOKEN if it is private") from None
    except RevisionNotFoundError:
        raise InputError(f"{shown}: has no revision {revision}; name a branch, a tag or a commit of it") from None
    except HfHubHTTPError as error:
        raise InputError(f"{shown}: the hub refuses it ({error_text(error)}); check HF_TOKEN") from None


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence the warnings and progress bars of `datasets` and the hub library, which would mix with those of tamis."""
    from huggingface_hub import logging

    bars = datasets.are_progress_bars_disabled()
    verbosities = [(each, each.get_verbosity()) for each in (datasets.logging, logging)]
    for each, _ in verbosities:
        each.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for each, verbosity in verbosities:
            each.set_verbosity(verbosity)
        if not bars:
            datasets.enable_progress_bars()
