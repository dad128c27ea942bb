"""The dialect of a corpus, found from its column names and a few of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tamis.operators.conversation.dialects import BY_HAND, Dialect, listed, optional_column, usual_inputs
from tamis.operators.conversation.strict_json import parse
from tamis.operators.conversation.turns import split_turns
from tamis.operators.problems import RowProblem

_UNDERSTOOD = (
    "understood are a list of messages (messages, conversations or conversation), instruction/input/output, "
    "prompt/response, prompt/completion, question/answer, instruction/response, chosen/rejected, and a text "
    "with Human:/Assistant: turns"
)

Rows = Sequence[Mapping[str, Any]]


def detect(columns: Sequence[str], rows: Rows, complete: bool = True) -> Dialect:
    """The dialect of a corpus.

    columns: all columns of the corpus. Unless `complete`, only the columns of `rows`: the optional parts are then
    bound by their usual names, because later rows may have them.
    rows: some rows of the corpus, used to look into lists and texts.

    A column that holds whole conversations and a pair of prompt and answer columns count equally. If there is more
    than one candidate, this raises an error and never guesses. `chosen` (in a preference corpus, the answer to train
    on) is tried only if there is no other candidate, and `text` only after `chosen`: the original Alpaca files repeat
    each row in a `text` column.

    Raises ValueError, which says what was found, what is understood and how to set the columns by hand.
    """
    system = optional_column(("system", "system_prompt"), columns, complete)
    choices = _chats(columns, rows, system) + _pairs(columns, rows, system, complete)
    if not choices and "chosen" in columns:
        choices = _chosen(columns, rows, system)
    if not choices and "text" in columns and _are_transcripts(_values(rows, "text")):
        choices = [Dialect.of("text", text="text")]
    if len(choices) == 1:
        return choices[0]
    if choices:
        found = "; ".join(choice.describe() for choice in choices)
        raise ValueError(f"the columns hold more than one conversation: {found}; {BY_HAND}")
    raise ValueError(f"no conversation found in the columns {listed(columns)}; {_UNDERSTOOD}; {BY_HAND}")


def as_list(value: Any) -> Any:
    """Parses a list given as a JSON string (as lists in a CSV file are); returns anything else unchanged."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return parse(value)
        except RowProblem:
            return value
    return value


def _chats(columns: Sequence[str], rows: Rows, system: str | None) -> list[Dialect]:
    found = []
    for column in ("messages", "conversations", "conversation"):
        if column in columns:
            layout = _chat_layout(_values(rows, column))
            if layout == "messages":
                found.append(Dialect.of("messages", messages=column, system=system))
            elif layout == "sharegpt":
                found.append(Dialect.of("sharegpt", conversations=column, system=system))
    return found


def _pairs(columns: Sequence[str], rows: Rows, system: str | None, complete: bool) -> list[Dialect]:
    found = []
    if "instruction" in columns:
        for output in ("output", "response"):
            if output in columns:
                also = _first(columns, "input", "context")
                if also is None and not complete and not _any_lists(rows, "instruction", output):
                    also = usual_inputs(output)[0]
                name = "alpaca" if output == "output" or also else "pair"
                parts = {"instruction": "instruction", "input": also, "output": output}
                if name == "pair":
                    parts = {"prompt": "instruction", "response": output}
                found.append(Dialect.of(name, **parts, system=system))
    for prompt, response in (("prompt", "response"), ("prompt", "completion"), ("question", "answer")):
        if prompt in columns and response in columns:
            found.append(Dialect.of("pair", prompt=prompt, response=response, system=system))
    return found


def _chosen(columns: Sequence[str], rows: Rows, system: str | None) -> list[Dialect]:
    """`chosen` is a whole conversation, or only the answer if there is also a prompt column."""
    values = _values(rows, "chosen")
    prompt = _first(columns, "prompt", "question", "instruction")
    layout = _chat_layout(values)
    if layout == "sharegpt":
        return [Dialect.of("sharegpt", conversations="chosen", system=system)]
    if layout == "messages" and not (prompt and all(map(_opens_with_answer, values))):
        return [Dialect.of("messages", messages="chosen", system=system)]
    if _are_transcripts(values):
        return [Dialect.of("text", text="chosen")]
    return [Dialect.of("pair", prompt=prompt, response="chosen", system=system)] if prompt else []


def _any_lists(rows: Rows, *columns: str) -> bool:
    """Whether any of these columns holds a list of turns, which a pair may hold and an alpaca row may not."""
    return any(isinstance(row.get(column), (list, tuple)) for row in rows for column in columns)


def _first(columns: Sequence[str], *wanted: str) -> str | None:
    return next((column for column in wanted if column in columns), None)


def _values(rows: Rows, column: str) -> list[Any]:
    return [value for row in rows if (value := row.get(column)) is not None]


def _chat_layout(values: Iterable[Any]) -> str | None:
    """messages or sharegpt, by the keys of the first turn that has either pair of keys; None if no turn does."""
    for value in values:
        turns = as_list(value)
        for turn in turns if isinstance(turns, (list, tuple)) else ():
            if isinstance(turn, Mapping):
                if "role" in turn and "content" in turn:
                    return "messages"
                if "from" in turn and "value" in turn:
                    return "sharegpt"
    return None


def _opens_with_answer(value: Any) -> bool:
    turns = as_list(value)
    first = turns[0] if isinstance(turns, (list, tuple)) and turns else None
    return isinstance(first, Mapping) and first.get("role") == "assistant"


def _are_transcripts(values: Sequence[Any]) -> bool:
    """Whether at least half of the values are texts with turns that include an answer."""
    return bool(values) and 2 * sum(map(_is_transcript, values)) >= len(values)


def _is_transcript(value: Any) -> bool:
    try:
        return isinstance(value, str) and any(role == "assistant" for role, _ in split_turns(value))
    except RowProblem:
        return False
