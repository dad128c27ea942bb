"""Which turns a model is trained on, by the marks that corpora put on turns.

    weight          OpenAI's fine-tuning, Mistral's, axolotl's ShareGPT: 0 or 1
    train, training axolotl: true or false
    trainable       true or false
    loss            XTuner, ms-swift: true or false
    loss_weight     LLaMA-Factory v1: a number, 0 for no loss

A weight above 0 counts as trained: tamis does not weigh. `mask` is refused: some tools take true for "not trained
on", others take 1 for "trained on". `train_detail` is refused, too: it trains on parts of one turn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tamis.operators.problems import RowProblem

_WEIGHTS = ("weight", "loss_weight")
_FLAGS = ("train", "training", "trainable", "loss")
MARKS = (*_WEIGHTS, *_FLAGS, "mask", "train_detail")
"""All keys of a turn that are read here."""
_WORDS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0}


def is_trained(turn: Mapping[str, Any], number: int) -> bool:
    """Whether a model is trained on this turn of the assistant; true if nothing says otherwise.

    Raises RowProblem("unclear_weight"), which says what to set.
    """
    if turn.get("mask") is not None:
        raise RowProblem(
            "unclear_weight",
            f"turn {number} has `mask`, which is `not trained on` for some tools and `trained on` for others; rename "
            "it to `train` (true: trained on)",
        )
    if turn.get("train_detail"):
        raise RowProblem("unclear_weight", f"turn {number} has `train_detail`: tamis cannot train on parts of a turn")
    found = {key: _value(turn[key], key, number) for key in (*_WEIGHTS, *_FLAGS) if turn.get(key) is not None}
    if len({value > 0 for value in found.values()}) > 1:
        raise RowProblem("unclear_weight", f"{' and '.join(found)} of turn {number} contradict each other; keep one")
    return all(value > 0 for value in found.values())


def _value(value: Any, key: str, number: int) -> float:
    weight = math.nan
    if isinstance(value, bool | int | float):
        weight = float(value) if abs(value) < 1e9 else math.nan
    elif isinstance(value, str):
        word = value.strip().lower()
        if word in _WORDS:
            weight = _WORDS[word]
        elif word.replace(".", "", 1).isdecimal():
            weight = float(word)
    if not weight >= 0 or (key in _FLAGS and weight not in (0, 1)):
        allowed = "0 or a positive number" if key in _WEIGHTS else "true or false"
        raise RowProblem("unclear_weight", f"`{key}` of turn {number} is not {allowed}")
    return weight
