"""Checks that the numbers of a model's config.json are plausible, before anything is built from them.

A config comes with a model and is not code, but it sets the size of everything built from it: lists with one entry
per block, modules, caches, embeddings. Every number has a bound far above any existing model. A number that is within
its bound but contradicts the weights is found from their names and shapes (architecture.py, loading.py).
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import safetensors

MOST_BYTES = 1 << 24
"""Bytes of config.json."""

# The largest seen so far: 126 blocks, 512 experts, width 18,432, 262,144 tokens in a vocabulary, 10,485,760 positions.
_BOUNDS = (
    (re.compile(r"layers?$|^n_layer|blocks?$"), 1024),
    (re.compile(r"position|n_ctx|context|seq"), 1 << 26),
    (re.compile(r"vocab"), 1 << 24),
    (re.compile(r"expert|head|group|labels"), 1 << 16),
    (re.compile(r"size$|dim$|rank|width|^n_|^num_|^d_"), 1 << 22),
)
_MOST = 1 << 53
_NUMBERED = re.compile(r"(?:^|\.)(\d{1,9})\.")
_LONGEST = 1 << 16


def check_config(raw: Any) -> None:
    """raw: the parsed config.json. Raises ValueError, naming the key and what is allowed, for an implausible value."""
    if not isinstance(raw, Mapping):
        raise ValueError("config.json does not hold an object")
    kinds = (("model_type", str, "a text"), ("auto_map", dict, "an object"), ("architectures", list, "a list of names"))
    for key, kind, said in kinds:
        value = raw.get(key)
        if value is not None and not isinstance(value, kind):
            raise ValueError(f"config.json has {key}={_shown(value)}; it must be {said}")
    if not all(isinstance(name, str) for name in raw.get("architectures") or []):
        raise ValueError("config.json has architectures that are not all names")
    for path, value in _values(raw, ""):
        _check_value(path, value)


def check_size(path: str | os.PathLike[str]) -> None:
    """ValueError for a config.json that is too large to be a config."""
    size = os.path.getsize(os.path.join(path, "config.json"))
    if size > MOST_BYTES:
        raise ValueError(f"config.json of {path} has {size:,} bytes; more than {MOST_BYTES:,} are no config")


def check_blocks(path: str | os.PathLike[str], blocks: int) -> None:
    """ValueError if the weights in folder `path`, by their names, have fewer blocks. Pickled weights and files that
    cannot be read are not checked here: loading them will raise the error.
    """
    numbers = [int(found[1]) for name in _weight_names(path) if (found := _NUMBERED.search(name))]
    if numbers and blocks > max(numbers) + 1:
        raise ValueError(
            f"config.json of {path} has num_hidden_layers={blocks:,}, and its weights are of {max(numbers) + 1:,} "
            "blocks; they do not belong together"
        )


def _weight_names(path: str | os.PathLike[str]) -> list[str]:
    single, index = (os.path.join(path, name) for name in ("model.safetensors", "model.safetensors.index.json"))
    try:
        if os.path.isfile(single):
            with safetensors.safe_open(single, framework="numpy") as file:
                return list(file.keys())
        with open(index, encoding="utf-8") as table:
            return [str(name) for name in json.load(table)["weight_map"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
        return []


def _values(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, value) of every value that is not an object."""
    stack: list[tuple[str, Any]] = [(path, value)]
    while stack:
        place, found = stack.pop()
        if isinstance(found, Mapping):
            stack += [(f"{place}.{key}" if place else str(key), inner) for key, inner in found.items()]
            continue
        yield place, found
        if isinstance(found, list):
            stack += [(f"{place}[]", inner) for inner in found[:_LONGEST]]


def _check_value(path: str, value: Any) -> None:
    name = path.rpartition(".")[2]
    if isinstance(value, list) and len(value) > _LONGEST:
        raise ValueError(
            f"config.json has {len(value):,} entries in {_named(path)}; at most {_LONGEST:,} are a model's"
        )
    if isinstance(value, float) and not math.isfinite(value) and not path.endswith("[]"):
        raise ValueError(f"config.json has {_named(path)}={value}; a finite number is needed")
    if isinstance(value, bool) or not isinstance(value, int):
        return
    most = next((bound for pattern, bound in _BOUNDS if pattern.search(name)), _MOST)
    if abs(value) > most:
        raise ValueError(f"config.json has {_named(path)}={_shown(value)}; at most {most:,} is a model's")


def _shown(value: Any) -> str:
    """A config value for a message, cut if it is long."""
    text = f"{value:,}" if isinstance(value, int) and abs(value) < 10**30 else f"{value!r:.60}"
    return text if len(text) < 60 else f"{text}..."


def _named(path: str) -> str:
    return path if re.fullmatch(r"[\w.\[\]-]{1,80}", path) else _shown(path)
