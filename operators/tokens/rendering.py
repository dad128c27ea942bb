"""Messages -> the text that a chat template renders from them, and the position of each answer in that text.

The template is compiled and run as in `apply_chat_template` of transformers, so the text is exactly the same, with
one exception: a template that asks for today's date (strftime_now) gets a fixed date, because a corpus must give the
same tokens tomorrow.

To find an answer, marks (private-use characters that the text does not contain) are put around it and the
conversation is rendered again. The marks show the position of the answer only if the second text without its marks
equals the first. If not, other places for the marks are tried: a template may trim contents, or drop the reasoning of
earlier turns. So a span is either correct or absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jinja2

from tamis.operators.conversation.messages import Message
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.chat_template import compile_template

# For a tokenizer without a template: "User: ...\n\nAssistant: ..." with the end-of-text token after each answer.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
_LOOKED_UP = 8

_MOST_WORK = 1 << 28
_PER_MESSAGE = 1000
"""If answers must be found one by one, each costs several renderings of the whole conversation. One message costs as
much as this many characters. The maximum work (_MOST_WORK, in characters) takes seconds."""

MOST_CHARACTERS = 1 << 23
"""A longer text cannot be the rendering of a conversation, which has at most 4 MiB (tokenizer.MOST_BYTES)."""

Span = tuple[int, int]
_Places = Callable[[str], Span]


@dataclass(frozen=True, slots=True)
class Rendered:
    """text: the rendered conversation. answers: half-open character ranges in it, one per assistant turn, in order.

    A range covers the turn's content as rendered, without the end-of-turn marker. It is empty if the template
    drops the whole content (a turn that was only reasoning).
    """

    text: str
    answers: tuple[Span, ...]


class BeyondLimits(RowProblem):
    """For this conversation, the template needs more time, memory, nesting or text than its limits allow."""


class Renderer:
    """template: Jinja source. variables: the names it may use besides `messages`: bos_token, eos_token, ...

    Raises ValueError if the template cannot be compiled. The template runs in the current process:
    pipeline/models/render_process.py limits the time and memory of templates from elsewhere.
    """

    def __init__(self, template: str, variables: Mapping[str, str]) -> None:
        try:
            self._template = compile_template(template)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"the chat template is not valid Jinja, line {error.lineno}: {error.message}") from error
        except Exception as error:  # deeply nested loops or brackets, endless constants
            raise ValueError(f"the chat template cannot be compiled ({type(error).__name__})") from error
        if "{{" not in template and "{%" not in template:
            raise ValueError("the chat template is not a Jinja template: it has no {{ ... }}")
        self.source = template
        self._variables: dict[str, Any] = {
            "tools": None,
            "documents": None,
            "add_generation_prompt": False,
            **variables,
        }

    def text(self, messages: Sequence[Message]) -> str:
        """The rendered conversation, without a generation prompt. Raises RowProblem("template_error")."""
        try:
            text = str(self._template.render(self._variables, messages=list(messages)))
        except (MemoryError, RecursionError) as error:
            said = f"the chat template wants too much memory or nesting ({type(error).__name__})"
            raise BeyondLimits("template_error", said) from None
        except Exception as error:
            # only the template's own words are repeated, because an error may quote the sample
            said = str(error) if str(error) and str(error) in self.source else type(error).__name__
            raise RowProblem("template_error", f"the chat template refuses this conversation: {said}") from error
        if len(text) > MOST_CHARACTERS:
            raise BeyondLimits("template_error", f"the chat template writes more than {MOST_CHARACTERS:,} characters")
        return text

    def render_all(self, conversations: Sequence[Sequence[Message]]) -> list[Rendered | RowProblem]:
        """What `render` returns for each conversation, or the problem that it raises."""
        found: list[Rendered | RowProblem] = []
        for messages in conversations:
            try:
                found.append(self.render(messages))
            except RowProblem as problem:
                found.append(problem)
        return found

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The text and its answers. Raises RowProblem: template_error, unstable_template, and too_many_turns if the
        template makes the answers so hard to find that it would take hours.
        """
        text = self.text(messages)
        turns = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
        spans = self._together(messages, turns, text, _whole)
        if spans is None:
            spans = self._together(messages, turns, text, _core)
            if spans is None:
                spans = [self._alone(messages, number, text) for number in turns]
                if any(before[1] > after[0] for before, after in pairwise(spans)):
                    raise _unstable(turns[0])
            else:
                spans = [self._widened(messages, number, text, span) for number, span in zip(turns, spans, strict=True)]
        return Rendered(text, tuple(spans))

    def _together(
        self, messages: Sequence[Message], turns: Sequence[int], text: str, places: _Places
    ) -> list[Span] | None:
        """The spans of all answers from one rendering, or None if the marks at these places cannot be trusted."""
        begin, end = unused_characters(text, 2)
        marked, inner = list(messages), []
        for number in turns:
            content = messages[number]["content"]
            start, stop = places(content)
            inner.append(content[start:stop])
            marked[number] = {
                "role": "assistant",
                "content": f"{content[:start]}{begin}{inner[-1]}{end}{content[stop:]}",
            }
        try:
            before, *pieces = self.text(marked).split(begin)
        except RowProblem:
            return None
        if len(pieces) != len(turns):
            return None
        spans, position, plain = [], len(before), [before]
        for piece, expected in zip(pieces, inner, strict=True):
            answer, _, after = piece.partition(end)
            if answer != expected:
                return None
            spans.append((position, position + len(answer)))
            position += len(answer) + len(after)
            plain += answer, after
        return spans if "".join(plain) == text else None

    def _widened(self, messages: Sequence[Message], number: int, text: str, core: Span) -> Span:
        """The span, extended by the white space around the answer that the template kept."""
        content = messages[number]["content"]
        (first, last), (start, stop) = _core(content), core
        # if the characters next to the core are not the content's own, the template has trimmed the content
        if first and text.endswith(content[first - 1], 0, start):
            kept = (self._place(messages, number, offset, text) for offset in _edge(content, 0, first))
            start = next((place for place in kept if place is not None), start)
        if last < len(content) and text.startswith(content[last], stop):
            kept = (self._place(messages, number, offset, text) for offset in _edge(content, len(content), last))
            stop = next((place for place in kept if place is not None), stop)
        return start, stop

    def _alone(self, messages: Sequence[Message], number: int, text: str) -> Span:
        """The span of one answer: each end is found by its own mark, at the first place that can be trusted.

        Raises RowProblem("unstable_template").
        """
        content = messages[number]["content"]
        start = self._first_place(messages, number, text, _starts(content))
        stop = self._first_place(messages, number, text, _stops(content))
        if start is None or stop is None or start > stop:
            raise _unstable(number)
        return start, stop

    def _first_place(
        self, messages: Sequence[Message], number: int, text: str, candidates: Iterator[Span]
    ) -> int | None:
        """candidates: pairs of offsets in the content, (the end to find, where to put the mark).

        The text between the two offsets must stand next to the mark in the rendered text.
        """
        content = messages[number]["content"]
        for wanted, offset in candidates:
            place = self._place(messages, number, offset, text)
            if place is not None:
                if wanted < offset and text.endswith(content[wanted:offset], 0, place):
                    return place - (offset - wanted)
                if wanted >= offset and text.startswith(content[offset:wanted], place):
                    return place + (wanted - offset)
        return None

    def _place(self, messages: Sequence[Message], number: int, offset: int, text: str) -> int | None:
        """The position in the text of this offset in a content; None if a mark there changes the text.

        Raises RowProblem("too_many_turns").
        """
        if len(messages) * (len(text) + _PER_MESSAGE * len(messages)) > _MOST_WORK:
            raise RowProblem("too_many_turns", "the chat template changes contents, and there are too many to trace")
        (mark,) = unused_characters(text, 1)
        content = messages[number]["content"]
        marked = list(messages)
        marked[number] = {
            "role": messages[number]["role"],
            "content": f"{content[:offset]}{mark}{content[offset:]}",
        }
        try:
            before, found, after = self.text(marked).partition(mark)
        except RowProblem:
            return None
        return len(before) if found and before + after == text else None


MakeRenderer = Callable[[str, Mapping[str, str]], Renderer]
"""template, variables -> the renderer."""


def unused_characters(text: str, count: int) -> tuple[str, ...]:
    """The first `count` private-use characters (plane 16) that the text does not contain.

    Raises RowProblem("unsupported_content") if the text contains too many of them.
    """
    found: list[str] = []
    taken = 0
    held: str | set[str] = text
    for code in range(0x100000, 0x10FFFE):
        if len(found) == count:
            break
        if chr(code) not in held:
            found.append(chr(code))
        elif (taken := taken + 1) == _LOOKED_UP:
            held = set(text)  # the text contains many of them on purpose: scan it once as a whole
    if len(found) == count:
        return tuple(found)
    raise RowProblem("unsupported_content", "the text holds all private-use characters of plane 16")


def _whole(content: str) -> Span:
    return 0, len(content)


def _core(content: str) -> Span:
    """The content without the white space around it."""
    start = len(content) - len(content.lstrip())
    return start, max(start, len(content.rstrip()))


def _edge(content: str, outer: int, core: int) -> Iterator[int]:
    """Offsets from the outer end of a content to its core, at which a template may cut the white space in between.

    A template may cut all of it, characters of one or several kinds (the cut ends where another kind first occurs), or
    the first one or two characters.
    """
    step = 1 if core > outer else -1
    seen: set[str] = set()
    for count, offset in enumerate(range(outer, core, step)):
        character = content[offset if step > 0 else offset - 1]
        if count < 3 or character not in seen:
            yield offset
        seen.add(character)
    yield core


def _starts(content: str) -> Iterator[Span]:
    """Where an answer may start in the text: at the content, at its reasoning, after its reasoning."""
    core, end = _core(content)
    yield from ((offset, offset) for offset in _edge(content, 0, core))
    if "</think>" in content:
        close = content.index("</think>")
        opened = content.rfind("<think>", 0, close)
        reasoning = opened + len("<think>") if opened >= 0 else core
        if content[reasoning:close].strip():
            reasoning += _core(content[reasoning:])[0]
            yield reasoning, reasoning
        spoken = content.rindex("</think>") + len("</think>")
        yield from ((offset, offset) for offset in _edge(content, spoken, spoken + _core(content[spoken:])[0]))
    # for a template that checks how a content begins: put the mark further in
    yield from ((core, core + inner) for inner in (1, 2, 4, 8, 16, 32) if core + inner <= end)


def _stops(content: str) -> Iterator[Span]:
    """Where an answer may end in the rendered text."""
    start, core = _core(content)
    yield from ((offset, offset) for offset in _edge(content, len(content), core))
    yield from ((core, core - inner) for inner in (1, 2, 4, 8, 16, 32) if core - inner >= start)


def _unstable(number: int) -> RowProblem:
    return RowProblem(
        "unstable_template",
        f"the chat template changes turn {number} so that its answer cannot be found in the text",
    )
