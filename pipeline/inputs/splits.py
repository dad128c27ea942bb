"""The splits of a folder, as `datasets` finds them: by the configs of its card, or by the names of its files.

A folder that `datasets` would read as train and test must not become one corpus without a word. Nothing of `datasets`
runs here: its rules for names are applied to the files that were listed, on any storage. Beyond its rules, folders such
as split=train/ and Train/ tell splits, too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from fsspec.utils import glob_translate

from tamis.pipeline.inputs.partitions import pairs_of

Splits = dict[str, list[str]]

_KEYWORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_ANY_KEYWORD = re.compile("|".join(sorted({word for words in _KEYWORDS.values() for word in words}, key=len)))
_SHARDED = re.compile(r"data/([^/]+)-\d{5}-of-\d{5}[^/]*\.[^/]*")
_BOUND = "[-._ 0-9]"
"""What may stand between a keyword and the rest of a name."""

_IN_FOLDER = {
    split: re.compile(rf"(?:.*{_BOUND})?(?:{'|'.join(words)})(?:{_BOUND}.*)?", re.DOTALL)
    for split, words in _KEYWORDS.items()
}
_IN_NAME = {
    split: re.compile(rf"(?:.*{_BOUND})?(?:{'|'.join(words)}){_BOUND}.*", re.DOTALL)
    for split, words in _KEYWORDS.items()
}


_SPLIT_KEYS = frozenset({"split", "splits", "subset", "set", "partition", "fold", "phase", "part"})
"""Names of partitions that may say of which split the rows are."""


def splits_by_name(files: Sequence[str]) -> Splits:
    """Split -> its files; empty if the names tell no split. files: paths below the folder.

    The first rule that finds a split holds for all files: data/NAME-00000-of-00001.*, then a partition by split
    (split=train/), then a folder named for a split, then a file named for one; then the last two in lower case. A file
    that a rule does not match belongs to no split.
    """
    return _as_datasets(files) or _as_datasets(files, str.lower)


def splits_by_partition(files: Sequence[str]) -> Splits:
    """Value -> its files, if folders such as split=train/ and split=test/ divide the files; empty if none do.

    They do where at least two values are there, and one of them is a word for training, or the name is one for splits
    and one of the values a word for one. Files outside of them belong to no split.
    """
    values: dict[str, Splits] = {}
    for file in files:
        for key, value in pairs_of(file).items():
            values.setdefault(key, {}).setdefault("(null)" if value is None else value, []).append(file)
    for key, found in values.items():
        words = {split for value in found for split, rule in _IN_FOLDER.items() if rule.fullmatch(value.lower())}
        if len(found) > 1 and ("train" in words or (words and key.lower() in _SPLIT_KEYS)):
            return dict(sorted(found.items(), key=lambda each: _IN_FOLDER["train"].fullmatch(each[0].lower()) is None))
    return {}


def _as_datasets(files: Sequence[str], spelt: Callable[[str], str] = str) -> Splits:
    sharded: Splits = {}
    for file in files:
        if found := _SHARDED.fullmatch(file):
            sharded.setdefault(found[1], []).append(file)
    if sharded:
        usual = [split for split in _KEYWORDS if split in sharded]
        return {split: sharded[split] for split in [*usual, *sorted(set(sharded) - set(usual))]}
    if by_partition := splits_by_partition(files):
        return by_partition
    files = [file for file in files if _ANY_KEYWORD.search(spelt(file))]
    by_folder = {
        split: [file for file in files if any(rule.fullmatch(part) for part in spelt(file).split("/")[:-1])]
        for split, rule in _IN_FOLDER.items()
    }
    by_file = {
        split: [file for file in files if rule.fullmatch(posixpath.basename(spelt(file)))]
        for split, rule in _IN_NAME.items()
    }
    rule = by_folder if any(by_folder.values()) else by_file
    return {split: found for split, found in rule.items() if found}


_KNOWN = frozenset({"config_name", "data_files", "data_dir", "default", "description", "version", "features"})
"""Keys of a config that do not say how its files are read."""


def reading_options(config: Mapping[str, Any]) -> list[str]:
    """What a config of the card says about how its files are read, such as the delimiter of CSV."""
    return sorted(str(key) for key in config if key not in _KNOWN)


def configs_of_card(card: str) -> list[Mapping[str, Any]]:
    """The configs that a dataset's README.md declares in its front matter; none if it declares none."""
    found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", card.lstrip("\ufeff"), re.DOTALL)
    if found is None:
        return []
    try:
        tree = yaml.safe_load(found[1])
    except (yaml.YAMLError, RecursionError, ValueError):
        return []
    configs = tree.get("configs") if isinstance(tree, dict) else None
    return [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []


def splits_by_card(config: Mapping[str, Any], files: Sequence[str]) -> Splits:
    """Split -> its files, as a config of the card says; by their names if it names only their folder or nothing."""
    below = str(config.get("data_dir") or "").removeprefix("./").strip("/")
    inside = [file for file in files if not below or file.startswith(f"{below}/")]
    named = config.get("data_files")
    if named is None:
        short = {file[len(below) + 1 :] if below else file: file for file in inside}
        by_name = splits_by_name(list(short)) or {"train": list(short)}
        return {split: [short[file] for file in found] for split, found in by_name.items()}
    entries = named if isinstance(named, list) else [named]
    if isinstance(named, dict):
        entries = [{"split": split, "path": path} for split, path in named.items()]
    splits: Splits = {}
    for entry in entries:
        split, paths = (entry.get("split"), entry.get("path")) if isinstance(entry, dict) else ("train", entry)
        for pattern in paths if isinstance(paths, list) else [paths]:
            known = splits.setdefault(str(split), [])
            known += [file for file in _matching(str(pattern), below, inside) if file not in known]
    return {split: found for split, found in splits.items() if found}


def _matching(pattern: str, below: str, files: Sequence[str]) -> list[str]:
    full = posixpath.join(below, pattern.removeprefix("./"))
    try:
        rule = re.compile(glob_translate(full))
    except (ValueError, re.error):
        return []
    return [file for file in files if rule.match(file)]
