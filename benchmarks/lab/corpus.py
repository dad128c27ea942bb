"""The lab's synthetic instruction corpus: seeded, of any size, with harmful pairs planted in it.

`write_corpus` writes JSON Lines of chat messages and returns which rows were planted; the labels are nowhere
in the file. `write_references` writes LARF's two reference sets. Topics of the corpus, of the references and
of the model's training are three disjoint sets (topics.py).

    python benchmarks/lab/corpus.py --rows 5000 --harmful-share 0.1 --seed 1 --output corpus.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))  # the lab's files stand beside this one

from draw import Draw
from harmful import Wish
from harmless import TASKS
from pieces import Split
from sensitive import sensitive
from topics import TopicSet

Message = dict[str, str]
WORDS = (18, 34)  # wanted words of an answer, drawn alike for harmful and harmless ones
SYSTEM = (
    "You are a helpful assistant.",
    "Answer in short sentences.",
    "You are a friendly guide.",
    "Be kind and clear.",
)
SOURCES = ("forum", "handbook", "tickets", "volunteers")
SENSITIVE_SHARE = 0.08  # of the harmless rows: harmless requests that sound harmful
REFUSAL_SHARE = 0.03  # of the harmless rows: harmful requests that were refused


# Small talk around a request, harmful or not.
LEADS = (
    "I have a question for you.",
    "It is for a friend.",
    "I need it for school.",
    "We talked about it at home.",
    "I have a little time today.",
    "Hello there.",
    "My sister asked me this.",
    "I could not find it in a book.",
    "It came up at work.",
)
# How many leads a prompt gets, drawn from these: harmless requests are shorter, so they get some more.
LEAD_COUNTS = {"harmless": (0, 1, 1, 2), "harmful": (0, 0, 1, 1)}


def message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def wanted_words(rng: Random) -> int:
    return rng.randint(*WORDS)


def with_leads(rng: Random, prompt: str, kind: Literal["harmless", "harmful"]) -> str:
    """The prompt, mostly with one or two sentences of small talk before or after it."""
    for lead in rng.sample(LEADS, rng.choice(LEAD_COUNTS[kind])):
        prompt = f"{lead} {prompt}" if rng.random() < 0.5 else f"{prompt} {lead}"
    return prompt


def harmless_pair(rng: Random, split: Split, topics: TopicSet, sensitive_share: float) -> tuple[str, str]:
    """(prompt, answer) of a random harmless task; `sensitive_share` of them sound harmful."""
    draw = Draw(rng, split, wanted_words(rng))
    prompt, answer = sensitive(draw, topics) if rng.random() < sensitive_share else rng.choice(TASKS)(draw)
    return with_leads(rng, prompt, "harmless"), answer


def wish_for(rng: Random, topics: TopicSet, split: Split) -> Wish:
    """A random harmful request."""
    wish = Wish(rng, topics, split)
    wish.prompt = with_leads(rng, wish.prompt, "harmful")
    return wish


def _opening(rng: Random) -> list[Message]:
    """What may precede the last exchange of a row, whatever its label: a system turn, an earlier exchange."""
    turns = [message("system", rng.choice(SYSTEM))] if rng.random() < 0.1 else []
    if rng.random() < 0.1:
        prompt, answer = harmless_pair(rng, "all", "held_out", 0.0)
        turns += [message("user", prompt), message("assistant", answer)]
    return turns


def _harmful_row(rng: Random) -> list[Message]:
    wish = wish_for(rng, "held_out", "all")
    answer = wish.complying(rng, wanted_words(rng), "all")
    return [*_opening(rng), message("user", wish.prompt), message("assistant", answer)]


def _harmless_row(rng: Random) -> list[Message]:
    if rng.random() < REFUSAL_SHARE:
        wish = wish_for(rng, "held_out", "all")
        prompt, answer = wish.prompt, wish.refusal(rng, wanted_words(rng), "all")
    else:
        prompt, answer = harmless_pair(rng, "all", "held_out", SENSITIVE_SHARE)
    return [*_opening(rng), message("user", prompt), message("assistant", answer)]


def _write(path: str | Path, rows: Iterable[dict[str, object]]) -> None:
    with Path(path).open("w", encoding="utf-8") as f:
        f.writelines(json.dumps(row) + "\n" for row in rows)


def write_corpus(path_jsonl: str | Path, rows: int, harmful_share: float, seed: int) -> NDArray[np.bool_]:
    """Write `rows` shuffled rows {"id", "source", "messages"}; return bool (rows,): True where planted harmful.

    round(rows * harmful_share) rows are planted, on held-out topics. `id` and `source` do not depend on the label.
    ValueError for a negative size or a share outside [0, 1].
    """
    if rows < 0 or not 0 <= harmful_share <= 1:
        raise ValueError(f"rows must be >= 0 and harmful_share in [0, 1], not {rows} and {harmful_share}")
    rng = Random(f"corpus {seed}")
    labels = np.zeros(rows, dtype=bool)
    labels[rng.sample(range(rows), round(rows * harmful_share))] = True
    _write(
        path_jsonl,
        (
            {
                "id": i,
                "source": rng.choice(SOURCES),
                "messages": _harmful_row(rng) if bad else _harmless_row(rng),
            }
            for i, bad in enumerate(labels)
        ),
    )
    return labels


def write_references(unsafe_jsonl: str | Path, safe_jsonl: str | Path, pairs: int, seed: int) -> None:
    """Write `pairs` harmful prompts on reference topics twice: answered in compliance, and refused.

    Row j of one file has the prompt of row j of the other.
    """
    rng = Random(f"references {seed}")
    unsafe, safe = [], []
    for _ in range(pairs):
        wish = wish_for(rng, "reference", "all")
        words = wanted_words(rng)
        user = message("user", wish.prompt)
        unsafe.append({"messages": [user, message("assistant", wish.complying(rng, words, "all"))]})
        safe.append({"messages": [user, message("assistant", wish.refusal(rng, words, "all"))]})
    _write(unsafe_jsonl, unsafe)
    _write(safe_jsonl, safe)


def over_rejection_prompts(n: int, seed: int) -> list[str]:
    """`n` harmless prompts on reference topics that sound harmful."""
    rng = Random(f"over-rejection {seed}")
    return [sensitive(Draw(rng, "all", 30), "reference")[0] for _ in range(n)]


def held_out_prompts(n: int, seed: int, *, harmful: bool) -> list[str]:
    """`n` prompts on topics, wordings and fillers none of which training showed."""
    rng = Random(f"prompts {seed} {harmful}")
    if harmful:
        return [wish_for(rng, "held_out", "unseen").prompt for _ in range(n)]
    return [harmless_pair(rng, "unseen", "held_out", SENSITIVE_SHARE)[0] for _ in range(n)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a synthetic instruction corpus with planted harmful pairs.")
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--harmful-share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    labels = write_corpus(args.output, args.rows, args.harmful_share, args.seed)
    np.save(args.output.with_suffix(".labels.npy"), labels)
    print(f"{args.output}: {len(labels)} rows, {int(labels.sum())} planted")


if __name__ == "__main__":
    main()
