"""Folders written by `save_to_disk` of Hugging Face datasets, on any file system.

The files of the dataset are those in state.json, in that order. Other files in the folder are caches of `map`, or
leftovers of an earlier save into the same folder.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable
from typing import Any

import fsspec

from tamis.pipeline.errors import InputError
from tamis.pipeline.storage.ranged import read_whole

INDEX, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
"""The files that list the splits, the files of one split, and its features."""


def saved_files(
    filesystem: fsspec.AbstractFileSystem, folder: str, below: Iterable[str], shown: str, split: str | None
) -> list[str] | None:
    """The data files of one split of the dataset saved in `folder`; None if no dataset is saved there.

    below: all files under the folder. Raises InputError if there are several splits and `split` names none of them, or
    for a folder whose subfolders hold saved datasets that do not belong together.
    """
    present = set(below)
    root = folder.rstrip("/")
    index = _object(filesystem, f"{root}/{INDEX}") if f"{root}/{INDEX}" in present else {}
    if isinstance(index.get("splits"), list):
        chosen = _split_of([_inside(str(name), shown) for name in index["splits"]], split, shown)
        return _files(_state(filesystem, f"{root}/{chosen}", shown), f"{root}/{chosen}", shown)
    state = _state(filesystem, root, shown) if {f"{root}/{STATE}", f"{root}/{INFO}"} <= present else {}
    if "_data_files" in state:
        own = state.get("_split")
        if split is not None and split != own:
            which = f"of the split {own}" if own else "without splits"
            raise InputError(f"{shown}: a single saved dataset {which}; leave input.split out")
        return _files(state, root, shown)
    apart = {posixpath.dirname(file) for file in present if posixpath.basename(file) == STATE} - {root}
    names = sorted(posixpath.relpath(place, root) for place in apart if f"{place}/{INFO}" in present)
    if names:
        raise InputError(
            f"{shown}: datasets were saved in folders below it ({', '.join(names[:20])}); name the one you mean"
        )
    return None


def _split_of(names: list[str], wanted: str | None, shown: str) -> str:
    if wanted is None and len(names) > 1:
        raise InputError(
            f"{shown}: has {len(names)} splits: {', '.join(names)}; choose one with --set input.split={names[0]}, or "
            "give the path of its files"
        )
    if not names or (wanted is not None and wanted not in names):
        raise InputError(f"{shown}: has no split {wanted or 'at all'}; it has {', '.join(names) or 'none'}")
    return wanted or names[0]


def _state(filesystem: fsspec.AbstractFileSystem, folder: str, shown: str) -> dict[str, Any]:
    try:
        return _object(filesystem, f"{folder}/{STATE}")
    except FileNotFoundError:
        raise InputError(f"{shown}: {folder}/{STATE} is missing; save the dataset again") from None


def _files(state: dict[str, Any], folder: str, shown: str) -> list[str]:
    listed = state.get("_data_files")
    if not isinstance(listed, list):
        raise InputError(f"{shown}: {folder}/{STATE} is not as `save_to_disk` writes it; save the dataset again")
    if not listed:
        raise InputError(f"{shown}: a saved dataset without rows")
    names = [str(item.get("filename") or "") if isinstance(item, dict) else "" for item in listed]
    return [f"{folder}/{_inside(name, shown)}" for name in names]


def _inside(name: str, shown: str) -> str:
    """The name, if it cannot lead out of its folder: the dataset may come from anyone."""
    if name in {"", ".", ".."} or posixpath.basename(name) != name:
        raise InputError(f"{shown}: names {name!a} as its own, which is no name `save_to_disk` gives")
    return name


def _object(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    try:
        tree = json.loads(read_whole(filesystem, path))
    except (ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        raise InputError(f"{path}: not as `save_to_disk` writes it; save the dataset again")
    return tree
