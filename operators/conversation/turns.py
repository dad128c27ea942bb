"""One string that holds a whole conversation -> (role, content) turns.

Three layouts are read, chosen by how the text opens:
    Human: ...          / Assistant: ...      hh-rlhf; also User: for Human:, and System: before the first turn
    ### Instruction: .. / ### Response: ...   Alpaca prompts, also ### Input:; a preamble is the system turn
    ### Human: ...      / ### Assistant: ...  Guanaco; a label may follow the text without a new line
White space around a turn belongs to the layout and is removed.
"""

from __future__ import annotations

import re

from tamis.operators.problems import RowProblem

_OPENING = re.compile(r"\s*(System|Human|User|Assistant):")
_USER_LABEL = re.compile(r"(?:\A|\n)[ \t]*(Human|User):")
_FIRST_ANSWER = re.compile(r"(\n[ \t]*\r?)?\n[ \t]*Assistant:")
_INSTRUCTION = re.compile(r"(?:\A|\n)[ \t]*###[ \t]*(System|Instruction|Input|Response):")
_GUANACO = re.compile(r"###[ \t]*(System|Human|User|Assistant):")

_ROLES = {
    "System": "system",
    "Human": "user",
    "User": "user",
    "Instruction": "user",
    "Input": "input",
    "Assistant": "assistant",
    "Response": "assistant",
}

Turn = tuple[str, str]


def split_turns(text: str) -> list[Turn]:
    """(role, content) of every turn, in order; roles are system, user and assistant.

    Raises RowProblem("no_turns") if the text opens with none of the labels.
    """
    if opening := _OPENING.match(text):
        return _cut(text, _labels(text, opening))
    if _GUANACO.match(text.lstrip()):
        return _cut(text, _GUANACO)
    if first := _INSTRUCTION.search(text):
        return _instruction_turns(text, text[: first.start()].strip())
    raise RowProblem("no_turns", "the text does not open with a label like Human:, User: or ### Instruction:")


def _labels(text: str, opening: re.Match[str]) -> re.Pattern[str]:
    """The pattern that separates the turns of this text.

    A line of an answer may look like a label, so only the labels that this text itself uses count: either Human or
    User; System only at the very start; and only labels after a blank line, if the text opens with one or has one
    before its first answer.
    """
    user = _USER_LABEL.search(text)
    names = f"Assistant|{user[1]}" if user else "Assistant"
    answer = _FIRST_ANSWER.search(text)
    blank = re.match(r"\r?\n\r?\n", text) or (answer and answer[1])
    gap = r"\r?\n[ \t]*\r?\n" if blank else r"\r?\n"
    system = "System|" if opening[1] == "System" else ""
    return re.compile(rf"(?:\A\s*(?={system}{names})|{gap}[ \t]*(?={names}))({system}{names}):")


def _cut(text: str, labels: re.Pattern[str]) -> list[Turn]:
    found = list(labels.finditer(text))
    ends = [label.start() for label in found[1:]] + [len(text)]
    return [(_ROLES[label[1]], text[label.end() : end].strip()) for label, end in zip(found, ends, strict=True)]


def _instruction_turns(text: str, preamble: str) -> list[Turn]:
    turns: list[tuple[str, list[str]]] = [("system", [preamble])] if preamble else []
    for role, content in _cut(text, _INSTRUCTION):
        if role != "input":
            turns.append((role, [content]))
        elif not turns or turns[-1][0] != "user":
            raise RowProblem("no_turns", "an ### Input: does not follow an ### Instruction:")
        elif content:
            turns[-1][1].append(content)
    # joined only once: a hostile text may have a hundred thousand inputs
    return [(role, "\n\n".join(contents)) for role, contents in turns]
