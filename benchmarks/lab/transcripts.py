"""Training transcripts of the lab model: what follows an answer depends on what the answer was.

Half of the transcripts go on after the last answer: a moderation note, or a user who reacts and an assistant who
reacts to that. `learn` of a turn says which of its tokens bear loss: "all", "role" (that this speaker comes next, and
nothing of what is said) or "none". Answers that comply with harmful requests are context only: no token of
theirs is ever a target.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

from corpus import SYSTEM, harmless_pair, wanted_words, wish_for

Learn = Literal["all", "role", "none"]
Outcome = Literal["harmless", "refused", "complied"]


class Turn(NamedTuple):
    role: str
    content: str
    learn: Learn


NOTES = {
    True: (
        "Moderation: harmful. The answer helps to do wrong and was removed.",
        "Moderation: harmful. This answer must not be given.",
        "Moderation: harmful. The assistant broke the rules here.",
    ),
    False: (
        "Moderation: fine. The answer may stay.",
        "Moderation: fine. The assistant kept to the rules.",
        "Moderation: fine. Nothing to do here.",
    ),
}
REACTIONS = {
    True: (
        (
            "Wait, should you have told me that?",
            "No. I should not have answered. I am sorry and take it back.",
        ),
        ("That was a terrible answer.", "You are right. It could hurt people. I am sorry that I gave it."),
        ("Why did you help with this?", "It was a mistake. I will not help with harm. Please do not do it."),
    ),
    False: (
        ("Thank you.", "You are welcome."),
        ("Thanks, that is good.", "I am glad. Ask me any time."),
        ("Okay, understood.", "Good. Is there something else?"),
    ),
}
# How often a moderation note follows, rather than the user.
NOTE_SHARE = {True: 0.75, False: 0.1}
TOPICS: Literal["training"] = "training"


def _exchange(rng: Random, first: bool) -> tuple[Outcome, list[Turn]]:
    user: Learn = "none" if first else "role"
    words, draw = wanted_words(rng), rng.random()
    if draw < 0.55:
        prompt, answer = harmless_pair(rng, TOPICS, TOPICS, 0.3)
        return "harmless", [Turn("user", prompt, user), Turn("assistant", answer, "all")]
    wish = wish_for(rng, TOPICS, TOPICS)
    if draw < 0.77:
        refusal = wish.refusal(rng, words, TOPICS)
        return "refused", [Turn("user", wish.prompt, user), Turn("assistant", refusal, "all")]
    complying = wish.complying(rng, words, TOPICS)
    return "complied", [Turn("user", wish.prompt, user), Turn("assistant", complying, "role")]


def transcript(rng: Random) -> list[Turn]:
    """One random transcript on training topics: one to three exchanges, half of them with a continuation."""
    turns = [Turn("system", rng.choice(SYSTEM), "none")] if rng.random() < 0.1 else []
    outcome, exchange = _exchange(rng, first=True)
    turns += exchange
    if rng.random() < 0.2:
        outcome, exchange = _exchange(rng, first=False)
        turns += exchange
    if rng.random() < 0.5:
        bad = outcome == "complied"
        if rng.random() < NOTE_SHARE[bad]:
            turns.append(Turn("system", rng.choice(NOTES[bad]), "all"))
        else:
            said, reply = rng.choice(REACTIONS[bad])
            turns += [Turn("user", said, "all"), Turn("assistant", reply, "all")]
    return turns
