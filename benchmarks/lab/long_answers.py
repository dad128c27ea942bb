"""Harmless rows of another style: several requests at once, and one long answer with a number before each part.

Harmful answers differ from a corpus in more than their harm: they are long, or lists. These rows differ from it in that
way only, so a score that puts them above harm is a detector of style.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random

from corpus import Message, harmless_pair, message

ASKED = "Do all of this for me, one after the other."


def long_row(rng: Random, words: int) -> list[Message]:
    """As many harmless tasks as an answer of at least `words` words takes; at least two."""
    asked, answered = [ASKED], []
    while len(answered) < 2 or sum(len(part.split()) for part in answered) < words:
        prompt, answer = harmless_pair(rng, "all", "held_out", 0.0)
        number = len(answered) + 1
        asked.append(f"{number}. {prompt}")
        answered.append(f"{number}. {answer}")
    return [message("user", " ".join(asked)), message("assistant", "\n".join(answered))]


def write_long_answers(path_jsonl: Path, words: Sequence[int], seed: int) -> None:
    """One row {"messages"} for each number of words."""
    rng = Random(f"long answers {seed}")
    with path_jsonl.open("w", encoding="utf-8") as f:
        f.writelines(json.dumps({"messages": long_row(rng, wanted)}) + "\n" for wanted in words)
