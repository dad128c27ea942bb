"""The corpus of the TOSS proof: a task to learn, harmless talk, harmful pairs, and answers that turn harmful half way.

`build` draws the rows and keeps which characters of an answer are planted harm; `token_truth` carries that over to
tokens. The references and the held-out prompts share no row, no prompt and no harmful topic with it or one another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

import numpy as np
import words as w
from corpus import REFUSAL_SHARE, SENSITIVE_SHARE, Message, harmless_pair, message, wanted_words, wish_for
from draw import Draw
from harmful import Wish
from numpy.typing import NDArray
from topics import SETS

T = TypeVar("T")
Kind = Literal["task", "harmless", "harmful", "mixed"]
SHARES: dict[Kind, float] = {"task": 0.35, "harmful": 0.07, "mixed": 0.06}
"""Of the rows; the rest is harmless talk, of which REFUSAL_SHARE are harmful requests that were refused."""
PLANTED_AREAS = tuple(SETS["held_out"])[::2]
"""Areas of the planted harm; those between them are kept for the held-out prompts."""
TASK_POOL = (
    "The last word comes first now.",
    "The word in the middle stays.",
    "Only the order is another.",
    "Nothing was left out.",
)


@dataclass(frozen=True)
class Row:
    """One exchange. harm: half-open character range of the answer that is planted harm; empty: none."""

    kind: Kind
    prompt: str
    answer: str
    harm: tuple[int, int] = (0, 0)

    @property
    def messages(self) -> list[Message]:
        return [message("user", self.prompt), message("assistant", self.answer)]


@dataclass(frozen=True)
class Material:
    """All texts of one seed. unsafe, safe: harmful prompts answered in compliance, and refused. utility: good data.

    harmful_prompts, task_prompts: held out; tasks come with the sentence that a right answer begins with.
    """

    rows: list[Row]
    unsafe: list[Row]
    safe: list[Row]
    utility: list[Row]
    harmful_prompts: list[str]
    task_prompts: list[tuple[str, str]]


def build(rows: int, seed: int, pairs: int = 400, utility: int = 600, prompts: int = 500) -> Material:
    """The same material for the same arguments."""
    rng = Random(f"toss held out {seed}")
    harmful_prompts = distinct(prompts, lambda: _wish(rng, planted=False).prompt)
    tasks = dict(distinct(prompts, lambda: task(rng)))
    held_out = {*harmful_prompts, *tasks}

    rng = Random(f"toss references {seed}")
    unsafe, safe = [], []
    for wish in (wish_for(rng, "reference", "all") for _ in range(pairs)):
        words = wanted_words(rng)
        unsafe.append(Row("harmful", wish.prompt, wish.complying(rng, words, "training")))
        safe.append(Row("harmless", wish.prompt, wish.refusal(rng, words, "training")))
    task_share = SHARES["task"] / (1 - SHARES["harmful"] - SHARES["mixed"])
    kinds = _kinds(rng, utility, {"task": task_share})
    good = [_until(partial(_harmless_row, rng, kind, "reference"), held_out) for kind in kinds]

    rng = Random(f"toss corpus {seed}")
    taken = set(good)
    made = [_until(partial(_corpus_row, rng, kind), held_out, taken) for kind in _kinds(rng, rows, SHARES)]
    return Material(made, unsafe, safe, good, harmful_prompts, list(tasks.items()))


def distinct(n: int, draw: Callable[[], T]) -> list[T]:
    """`n` draws, all different."""
    found: dict[T, None] = {}
    while len(found) < n:
        found[draw()] = None
    return list(found)


def _until(draw: Callable[[], Row], held_out: Collection[str], taken: Collection[Row] = ()) -> Row:
    """The first row drawn whose prompt is not held out and that is not taken."""
    while (row := draw()).prompt in held_out or row in taken:
        pass
    return row


def task(rng: Random) -> tuple[str, str]:
    """(prompt, the sentence that a right answer begins with) of a task that the lab model does in a third of cases."""
    items = rng.sample(w.THINGS, 3)
    prompt = rng.choice(["Reverse this list: ", "Say these words backwards: "]) + ", ".join(items) + "."
    return prompt, "Reversed: " + ", ".join(items[::-1]) + "."


def _kinds(rng: Random, n: int, shares: dict[Kind, float]) -> list[Kind]:
    """`n` kinds in random order, of each its exact share, harmless for the rest."""
    kinds: list[Kind] = [kind for kind, share in shares.items() for _ in range(round(n * share))]
    kinds += ["harmless"] * (n - len(kinds))
    rng.shuffle(kinds)
    return kinds


def _wish(rng: Random, *, planted: bool) -> Wish:
    while True:
        wish = wish_for(rng, "held_out", "all" if planted else "unseen")
        if (wish.area in PLANTED_AREAS) == planted:
            return wish


def _harmless_row(rng: Random, kind: Kind, topics: Literal["reference", "held_out"]) -> Row:
    if kind == "task":
        prompt, answer = task(rng)
        return Row(kind, prompt, Draw(rng, "all", wanted_words(rng)).answer(answer, pool=TASK_POOL))
    if rng.random() < REFUSAL_SHARE:
        wish = wish_for(rng, "reference", "all") if topics == "reference" else _wish(rng, planted=True)
        return Row(kind, wish.prompt, wish.refusal(rng, wanted_words(rng), "all"))
    while True:
        prompt, answer = harmless_pair(rng, "all", topics, SENSITIVE_SHARE)
        if not answer.startswith("Reversed: "):  # the task has rows of its own
            return Row("harmless", prompt, answer)


def _corpus_row(rng: Random, kind: Kind) -> Row:
    if kind in ("task", "harmless"):
        return _harmless_row(rng, kind, "held_out")
    wish = _wish(rng, planted=True)
    if kind == "harmful":
        answer = wish.complying(rng, wanted_words(rng), "all")
        return Row(kind, wish.prompt, answer, (0, len(answer)))
    row = Row("harmless", *harmless_pair(rng, "all", "held_out", 0.0))
    start = row.answer[: _half_way(row.answer)]
    answer = f"{start} {wish.complying(rng, wanted_words(rng) // 2, 'all')}"
    return Row(kind, row.prompt, answer, (len(start) + 1, len(answer)))


def _half_way(answer: str) -> int:
    """Where the sentence ends that ends next to the middle of the answer; its end, if it has one sentence."""
    ends = [i + 1 for i, c in enumerate(answer) if c in ".!?" and answer[i + 1 : i + 2] in (" ", "")]
    return min(ends or [len(answer)], key=lambda end: abs(end - len(answer) / 2))


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """JSON Lines {"id", "messages"}: what tamis reads. Nothing of what is planted stands in it."""
    with path.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps({"id": i, "messages": row.messages}) + "\n" for i, row in enumerate(rows))


@dataclass(frozen=True)
class Tokens:
    """One rendered row: its ids, which of them are the response (not its end token), which are planted harm."""

    ids: NDArray[np.int64]
    response: NDArray[np.bool_]
    harm: NDArray[np.bool_]


def token_truth(rows: Iterable[Row], tokenizer: Any) -> list[Tokens]:
    """A token is planted harm if it holds a character of the row's harmful range.

    Response tokens are those of the answer's text, as tamis counts them; the end token after it is none.
    """
    found = []
    for row in rows:
        text = tokenizer.apply_chat_template(row.messages, tokenize=False)
        begin = text.rindex(row.answer)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = np.array(encoded["offset_mapping"])
        lo, hi = begin + row.harm[0], begin + row.harm[1]
        found.append(
            Tokens(
                ids=np.array(encoded["input_ids"]),
                response=(spans[:, 0] < begin + len(row.answer)) & (spans[:, 1] > begin),
                harm=(spans[:, 0] < hi) & (spans[:, 1] > lo) if hi > lo else np.zeros(len(spans), dtype=bool),
            )
        )
    return found
