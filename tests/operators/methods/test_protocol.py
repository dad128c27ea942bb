from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pytest

from tamis.operators.methods import METHODS, Method
from tamis.operators.methods.protocol import reduce_in_process, tree_reduce


def level_by_level(parts: list[str]) -> str:
    while len(parts) > 1:
        pairs = [parts[i : i + 2] for i in range(0, len(parts), 2)]
        parts = ["".join(["(", *pair, ")"]) if len(pair) == 2 else pair[0] for pair in pairs]
    return parts[0]


def combine(a: str, b: str) -> str:
    return f"({a}{b})"


@pytest.mark.parametrize("n", range(1, 40))
def test_tree_is_the_pairwise_tree(n: int) -> None:
    parts = [f"{i}." for i in range(n)]
    assert tree_reduce(parts, combine) == level_by_level(parts)


@pytest.mark.parametrize("group", [1, 2, 4, 8, 16])
def test_aligned_groups_of_a_power_of_two_are_subtrees(group: int) -> None:
    parts = [f"{i}." for i in range(29)]
    groups = [tree_reduce(parts[i : i + group], combine) for i in range(0, len(parts), group)]
    assert tree_reduce(groups, combine) == tree_reduce(parts, combine)


def test_nothing_to_reduce() -> None:
    with pytest.raises(ValueError, match="no parts"):
        tree_reduce([], combine)


def test_reduce_in_process_goes_by_source_and_order() -> None:
    shards = {
        "corpus": [{"a": np.full((n, 1), n, np.float32)} for n in (1, 2, 3)],
        "safe": [{"a": np.zeros((9, 1), np.float32)}],
        "empty": [],
    }
    reduce = reduce_in_process(shards)

    def rows(features) -> str:
        return f"{len(features['a'])}."

    assert reduce(rows, combine) == "((1.2.)3.)"
    assert reduce(rows, combine, "safe") == "9."
    for source in ("empty", "unheard of"):
        with pytest.raises(ValueError, match=source):
            reduce(rows, combine, source)


SCORING: dict[str, type[Method]] = {name: kind for name, kind in METHODS.items() if issubclass(kind, Method)}


def _settings(kind: type[Method]) -> set[str]:
    return {item.name for item in fields(kind)}  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_frozen_dataclass_that_says_everything_about_itself(name: str) -> None:
    kind = METHODS[name]
    method = kind()
    assert kind.name == name
    assert is_dataclass(method)
    assert kind.about.endswith(".")
    assert all(re.fullmatch(r"\d{4}\.\d{5}", paper) and paper in kind.explain({}) for paper in kind.papers)
    assert kind.explain({}).startswith(f"{kind.title} (" if kind.papers else f"{kind.title}: ")
    assert kind.sources() == method.sources()
    assert set(kind.models) <= set(kind.references)  # a model is trained on the set of its name
    assert kind.masks_tokens != issubclass(kind, Method)
    for item in fields(method):
        assert item.metadata["help"]
        with pytest.raises(AttributeError):
            setattr(method, item.name, 1)


def test_every_method_but_our_own_has_a_paper() -> None:
    assert [name for name, kind in METHODS.items() if not kind.papers] == ["contrast"]


@pytest.mark.parametrize("name", [name for name, kind in SCORING.items() if "layer" in _settings(kind)])
def test_layers_are_checked(name: str) -> None:
    method: Any = SCORING[name]
    assert len({request.block for request in method().requests(12)}) == 1
    assert method(layer=3).requests(4)[0].block == 3
    with pytest.raises(ValueError, match=rf"{name}.layer=4: the model has blocks 0 to 3"):
        method(layer=4).requests(4)
    for bad in (-1, True, 1.0, "middle"):
        with pytest.raises(ValueError, match=f"{name}.layer"):
            method(layer=bad)  # type: ignore[arg-type]
    if "position" in _settings(method):
        with pytest.raises(ValueError, match="position"):
            method(position="first_token")
    with pytest.raises(ValueError, match="blocks=0"):
        method().requests(0)
