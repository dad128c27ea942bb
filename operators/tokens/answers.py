"""The position of each answer in the text that a chat template renders from a conversation.

Marks (private-use characters that the text does not contain) are put around the answers and the conversation is
rendered again. The marks show the positions only if the second text without its marks equals the first. If not, other
places for the marks are tried: a template may trim contents, or drop the reasoning of earlier turns. All answers are
tried in one rendering, and only if no such rendering can be trusted, one by one.

What a template writes for a tool call holds no text of which the ends could be marked. It stands where a plain answer
would stand: the turn is rendered with a plain answer in place of its calls, and what is equal before and after it is
not the turn's. So a span is either correct or absent.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from tamis.operators.conversation.conversation import REASONING, Message, calls_of, reasoning_of
from tamis.operators.problems import RowProblem

_LOOKED_UP = 8

_MOST_WORK = 1 << 28
_PER_MESSAGE = 1000
"""If answers must be found one by one, each costs several renderings of the whole conversation. One message costs as
much as this many characters. The maximum work (_MOST_WORK, in characters) takes seconds."""

_MOST_MARKS = 1 << 15
_PLAIN = "x"
_MARKER = r"<[^<>\s]+>"
"""A marker around an answer, of those that templates write: <|eot_id|>, <|call|>, </s>."""

CharRange = tuple[int, int]
_Places = Callable[[str], CharRange]
_Ends = tuple[int | None, int | None]  # of one answer in the text, as far as they are known


class AnswerFinder:
    """write: messages -> the rendered text; prompted: the same with the generation prompt after it. text: what `write`
    gives for these messages."""

    def __init__(
        self,
        write: Callable[[Sequence[Message]], str],
        prompted: Callable[[Sequence[Message]], str],
        messages: Sequence[Message],
        text: str,
    ) -> None:
        self._write, self._prompted, self._messages, self._text = write, prompted, messages, text

    def find(self, turns: Sequence[int]) -> list[CharRange]:
        """The span of each of these turns. Raises RowProblem: unstable_template, too_many_turns."""
        if all(map(_is_text, (self._messages[number] for number in turns))):
            spans = self._together(turns, _whole)
            if spans is not None:
                return spans
            spans = self._together(turns, _core)
            if spans is not None:
                return [self._widened(number, span) for number, span in zip(turns, spans, strict=True)]
        ends = self._all_marked(turns)
        if ends is None:
            ends = {number: self._one_by_one(number) for number in turns}
        self._add_calls([number for number in turns if calls_of(self._messages[number])], ends)
        spans = [self._closed(number, ends[number]) for number in turns]
        if any(before[1] > after[0] for before, after in pairwise(spans)):
            raise _unstable(turns[0])
        return spans

    def _closed(self, number: int, ends: _Ends) -> CharRange:
        start, stop = ends
        if start is None or stop is None or start > stop:
            raise _unstable(number)
        return start, stop

    # --- answers that are text, with and without separate reasoning --------------------------------------------------

    def _all_marked(self, turns: Sequence[int]) -> dict[int, _Ends] | None:
        """The ends of all answers from one rendering, or None if it cannot be trusted. Of a turn with tool calls, only
        the start of its reasoning."""
        for before, after in ((True, True), (False, True), (True, False), (False, False)):
            found = self._marked({number: _points(self._messages[number], before, after) for number in turns})
            if found is not None:
                return found
        return None

    def _marked(self, points: dict[int, _Points]) -> dict[int, _Ends] | None:
        wanted = sum(len(point.starts) + 1 for point in points.values())
        if wanted > _MOST_MARKS:
            return None
        free = iter(unused_characters(self._text, wanted))
        marked = list(self._messages)
        marks: dict[int, tuple[list[str], str]] = {}
        for number, point in points.items():
            starts, stop = [next(free) for _ in point.starts], next(free)
            marks[number] = starts, stop
            placed = list(zip(point.starts, starts, strict=True))
            if point.stop is not None:
                placed.append((point.stop, stop))
            marked[number] = _with_marks(self._messages[number], placed)
        places = self._places(marked, {mark for starts, stop in marks.values() for mark in (*starts, stop)})
        if places is None:
            return None
        found: dict[int, _Ends] = {}
        doubtful: dict[int, list[tuple[str, int, int]]] = {}
        for number, point in points.items():
            starts, stop = marks[number]
            which = next((which for which, mark in enumerate(starts) if mark in places), None)
            start = None if which is None else places[starts[which]]
            end = places.get(stop)
            if point.stop is not None and (start is None or end is None):
                return None
            found[number] = start, end
            doubtful[number] = self._doubtful(self._messages[number], point, which, start, end)
        return found if self._are_the_templates(doubtful) else None

    def _places(self, marked: Sequence[Message], marks: set[str]) -> dict[str, int] | None:
        """Mark -> its position in the text; None if the marks change the text."""
        try:
            text = self._write(marked)
        except RowProblem:
            return None
        places: dict[str, int] = {}
        pieces, done = [], 0
        for found in _PRIVATE.finditer(text):
            if found[0] in marks:  # the text may hold others of its own
                if found[0] in places:
                    return None
                places[found[0]] = found.start() - len(places)
                pieces.append(text[done : found.start()])
                done = found.end()
        return places if "".join([*pieces, text[done:]]) == self._text else None

    def _doubtful(
        self, message: Message, point: _Points, which: int | None, start: int | None, stop: int | None
    ) -> list[tuple[str, int, int]]:
        """(key, from, to): white space of the turn beside its answer that may be what stands there in the text."""
        found = []
        if which is not None and start is not None:
            key, offset = point.starts[which]
            outer = point.outer[which]
            if outer < offset and self._text.endswith(message[key][offset - 1], 0, start):
                found.append((key, outer, offset))
        if point.stop is not None and stop is not None:
            key, offset = point.stop
            if offset < len(message[key]) and self._text.startswith(message[key][offset], stop):
                found.append((key, offset, len(message[key])))
        return found

    def _are_the_templates(self, doubtful: dict[int, list[tuple[str, int, int]]]) -> bool:
        """Whether the white space beside the answers is the template's: it does not change if the turns have none."""
        if not any(doubtful.values()):
            return True
        bare = list(self._messages)
        for number, cuts in doubtful.items():
            for key, start, stop in sorted(cuts, reverse=True):
                value = bare[number][key]
                bare[number] = _with_value(bare[number], key, value[:start] + value[stop:])
        try:
            return self._write(bare) == self._text
        except RowProblem:
            return False

    def _one_by_one(self, number: int) -> _Ends:
        message = self._messages[number]
        if _is_text(message):
            return self._alone(number)
        self._check_work()
        found = self._all_marked([number])
        if found is None:
            raise _unstable(number)
        return found[number]

    # --- answers that are tool calls ---------------------------------------------------------------------------------

    def _add_calls(self, turns: Sequence[int], ends: dict[int, _Ends]) -> None:
        """Adds the ends of the turns with tool calls; the start is kept if it is known."""
        if not turns:
            return
        together = self._between_all(turns)
        for which, number in enumerate(turns):
            start, _ = ends[number]
            first, stop = together[which] if together is not None else self._between(number, start is None)
            ends[number] = first if start is None else start, stop

    def _between_all(self, turns: Sequence[int]) -> list[CharRange] | None:
        """The spans of all these turns from one rendering of plain answers in their places."""
        try:
            begin, end = unused_characters(self._text, 2)
            before, *pieces = self._write(self._twins(turns, begin, end)).split(begin)
        except RowProblem:
            return None
        after = [piece.partition(end)[2] for piece in pieces]
        if len(pieces) != len(turns) or any(not piece.startswith(_PLAIN + end) for piece in pieces):
            return None
        if not self._text.startswith(before):
            return None
        names = self._names(turns)
        if names is None:
            return None
        spans, start = [], len(before)
        for piece, name, later in zip(after[:-1], names[:-1], names[1:], strict=True):
            # what stands between two turns is found once, after the first one's call and before the second one's
            stop = self._text.find(piece, start, later)
            if not piece or not start <= name <= stop or self._text.rfind(piece, start, later) != stop:
                return None
            spans.append((start, stop))
            start = stop + len(piece)
        stop = len(self._text) - len(after[-1])
        return [*spans, (start, stop)] if start <= stop and self._text.endswith(after[-1]) else None

    def _names(self, turns: Sequence[int]) -> list[int] | None:
        """Where the name of the last call of each turn stands in the text; None if that cannot be told."""
        if len(turns) > _MOST_MARKS:
            return None
        marked = list(self._messages)
        marks = unused_characters(self._text, len(turns))
        for number, mark in zip(turns, marks, strict=True):
            *calls, last = calls_of(marked[number])
            function = {**last["function"], "name": mark + last["function"]["name"]}
            marked[number] = {**marked[number], "tool_calls": [*calls, {**last, "function": function}]}
        places = self._places(marked, set(marks))
        return None if places is None or len(places) < len(marks) else [places[mark] for mark in marks]

    def _between(self, number: int, needs_start: bool) -> _Ends:
        """The span of one turn. Raises RowProblem("unstable_template")."""
        self._check_work()
        begin, end = unused_characters(self._text, 2)
        try:
            before, found, rest = self._write(self._twins([number], begin, end)).partition(begin)
        except RowProblem:
            raise _unstable(number) from None
        answer, closed, after = rest.partition(end)
        if not found or not closed or answer != _PLAIN:
            raise _unstable(number)
        start = self._after(before)
        if start is None and needs_start:
            try:
                prompt = self._prompted(self._messages[:number])
            except RowProblem:
                raise _unstable(number) from None
            start = len(prompt) if self._text.startswith(prompt) else None
        stop = _end_before(after, self._text)
        return start, self._without_results(number) if stop is None else stop

    def _without_results(self, number: int) -> int | None:
        """The end of one turn, for a template that writes a result by the call before it: a user's turn takes the
        place of the results, both after the turn and after the plain answer in its place."""
        later = number + 1
        while later < len(self._messages) and self._messages[later]["role"] == "tool":
            later += 1
        tail = [{"role": "user", "content": _PLAIN}, *self._messages[later:]]
        begin, end = unused_characters(self._text, 2)
        try:
            own = self._write([*self._messages[: number + 1], *tail])
            twin = self._write([*self._twins([number], begin, end)[: number + 1], *tail])
        except RowProblem:
            return None
        stop = _end_before(twin.partition(end)[2], own)
        return stop if stop is not None and self._text.startswith(own[:stop]) else None

    def _twins(self, turns: Sequence[int], begin: str, end: str) -> list[Message]:
        """The messages, with a plain answer in place of the content and the calls of these turns."""
        twins = list(self._messages)
        for number in turns:
            twins[number] = {k: v for k, v in twins[number].items() if k not in ("tool_calls", "tool_plan")}
            twins[number]["content"] = begin + _PLAIN + end
        return twins

    def _after(self, before: str) -> int | None:
        """Where in the text that ends which stands before a plain answer: the two may differ in the white space or in
        the marker at the end."""
        same = _longest(lambda length: self._text.startswith(before[:length]), len(before))
        if same == len(before) or before[same:].isspace():
            return same
        if marker := re.search(rf"{_MARKER}\s*\Z", before):
            own = re.compile(rf"{_MARKER}\s*").match(self._text, marker.start())
            if own and same >= marker.start():
                return own.end()
        return None

    # --- answers whose places must be tried one by one ---------------------------------------------------------------

    def _together(self, turns: Sequence[int], places: _Places) -> list[CharRange] | None:
        """The spans of all answers from one rendering, or None if the marks at these places cannot be trusted."""
        begin, end = unused_characters(self._text, 2)
        marked, inner = list(self._messages), []
        for number in turns:
            content = self._messages[number]["content"]
            start, stop = places(content)
            inner.append(content[start:stop])
            marked[number] = {
                **self._messages[number],
                "content": f"{content[:start]}{begin}{inner[-1]}{end}{content[stop:]}",
            }
        try:
            before, *pieces = self._write(marked).split(begin)
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
        return spans if "".join(plain) == self._text else None

    def _widened(self, number: int, core: CharRange) -> CharRange:
        """The span, extended by the white space around the answer that the template kept."""
        content = self._messages[number]["content"]
        (first, last), (start, stop) = _core(content), core
        # if the characters next to the core are not the content's own, the template has trimmed the content
        if first and self._text.endswith(content[first - 1], 0, start):
            kept = (self._place(number, offset) for offset in _edge(content, 0, first))
            start = next((place for place in kept if place is not None), start)
        if last < len(content) and self._text.startswith(content[last], stop):
            kept = (self._place(number, offset) for offset in _edge(content, len(content), last))
            stop = next((place for place in kept if place is not None), stop)
        return start, stop

    def _alone(self, number: int) -> CharRange:
        """The span of one answer: each end is found by its own mark, at the first place that can be trusted.

        Raises RowProblem("unstable_template").
        """
        content = self._messages[number]["content"]
        start = self._first_place(number, _starts(content))
        stop = self._first_place(number, _stops(content))
        if start is None or stop is None or start > stop:
            raise _unstable(number)
        return start, stop

    def _first_place(self, number: int, candidates: Iterator[CharRange]) -> int | None:
        """candidates: pairs of offsets in the content, (the end to find, where to put the mark).

        The text between the two offsets must stand next to the mark in the rendered text.
        """
        content = self._messages[number]["content"]
        for wanted, offset in candidates:
            place = self._place(number, offset)
            if place is not None:
                if wanted < offset and self._text.endswith(content[wanted:offset], 0, place):
                    return place - (offset - wanted)
                if wanted >= offset and self._text.startswith(content[offset:wanted], place):
                    return place + (wanted - offset)
        return None

    def _place(self, number: int, offset: int) -> int | None:
        """The position in the text of this offset in a content; None if a mark there changes the text.

        Raises RowProblem("too_many_turns").
        """
        self._check_work()
        (mark,) = unused_characters(self._text, 1)
        content = self._messages[number]["content"]
        marked = list(self._messages)
        marked[number] = {
            **self._messages[number],
            "content": f"{content[:offset]}{mark}{content[offset:]}",
        }
        try:
            before, found, after = self._write(marked).partition(mark)
        except RowProblem:
            return None
        return len(before) if found and before + after == self._text else None

    def _check_work(self) -> None:
        """Raises RowProblem("too_many_turns") if one rendering for each answer would take hours."""
        if len(self._messages) * (len(self._text) + _PER_MESSAGE * len(self._messages)) > _MOST_WORK:
            raise RowProblem("too_many_turns", "the chat template changes contents, and there are too many to trace")


@dataclass
class _Points:
    """Where marks go in one turn. starts: (key, offset), the first that the template keeps is the start. outer: for
    each of them, where the white space before it begins. stop: None where a tool call ends the turn."""

    starts: list[tuple[str, int]] = field(default_factory=list)
    outer: list[int] = field(default_factory=list)
    stop: tuple[str, int] | None = None

    def add(self, key: str, first: int, offset: int) -> None:
        if (key, offset) not in self.starts:
            self.starts.append((key, offset))
            self.outer.append(first)


def _points(message: Message, before: bool, after: bool) -> _Points:
    """before: the start goes before the white space in front of the answer, instead of after it. after: the end goes
    after the white space behind it."""
    found = _Points()
    if reasoning := reasoning_of(message):
        key = next(key for key in REASONING if key in message)
        found.add(key, 0, 0 if before else _core(reasoning)[0])
    if calls_of(message):
        return found
    content = message["content"]
    core, end = _core(content)
    found.add("content", 0, 0 if before else core)
    if "</think>" in content:
        opened, spoken = _thinking(content)
        if opened is not None:
            found.add("content", opened, opened)
        found.add("content", spoken, spoken if before else spoken + _core(content[spoken:])[0])
    found.stop = "content", len(content) if after else end
    return found


def _with_marks(message: Message, placed: Sequence[tuple[tuple[str, int], str]]) -> Message:
    marked = message
    for (key, offset), mark in sorted(placed, key=lambda one: one[0][1], reverse=True):
        value = marked[key]
        marked = _with_value(marked, key, value[:offset] + mark + value[offset:])
    return marked


def _with_value(message: Message, key: str, value: str) -> Message:
    """The message with this content or reasoning; reasoning stands under several names."""
    keys = [name for name in REASONING if name in message] if key in REASONING else [key]
    return {**message, **dict.fromkeys(keys, value)}


def _is_text(message: Message) -> bool:
    """Whether the turn is only its content."""
    return not calls_of(message) and not reasoning_of(message)


def _end_before(after: str, text: str) -> int | None:
    """Where in the text that begins which stands after a plain answer: the two may differ in the white space or in the
    marker at the beginning."""
    same = _longest(lambda length: text.endswith(after[len(after) - length :]), len(after))
    if same == len(after) or after[: len(after) - same].isspace():
        return len(text) - same
    if marker := re.match(rf"\s*{_MARKER}", after):
        rest = len(after) - marker.end()
        own = re.search(rf"{_MARKER}\Z", text[: len(text) - rest])
        if own and same >= rest:
            return own.start()
    return None


def _longest(holds: Callable[[int], bool], most: int) -> int:
    """The greatest length up to `most` for which it holds, as it does for every shorter one."""
    return bisect_left(range(most), True, key=lambda length: not holds(length + 1))


_PRIVATE = re.compile("[\U00100000-\U0010fffd]")


def unused_characters(text: str, count: int) -> tuple[str, ...]:
    """The first `count` private-use characters (plane 16) that the text does not contain.

    Raises RowProblem("unsupported_content") if the text contains too many of them.
    """
    found: list[str] = []
    taken = 0
    held: str | set[str] = text if count <= _LOOKED_UP else set(text)
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


def _whole(content: str) -> CharRange:
    return 0, len(content)


def _core(content: str) -> CharRange:
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


def _starts(content: str) -> Iterator[CharRange]:
    """Where an answer may start in the text: at the content, at its reasoning, after its reasoning."""
    core, end = _core(content)
    yield from ((offset, offset) for offset in _edge(content, 0, core))
    if "</think>" in content:
        reasoning, spoken = _thinking(content)
        if reasoning is not None:
            yield reasoning, reasoning
        yield from ((offset, offset) for offset in _edge(content, spoken, spoken + _core(content[spoken:])[0]))
    # for a template that checks how a content begins: put the mark further in
    yield from ((core, core + inner) for inner in (1, 2, 4, 8, 16, 32) if core + inner <= end)


def _thinking(content: str) -> tuple[int | None, int]:
    """Where the reasoning in a content begins, None if it is empty; where it and its tag end."""
    close = content.index("</think>")
    opened = content.rfind("<think>", 0, close)
    reasoning = opened + len("<think>") if opened >= 0 else _core(content)[0]
    inner = reasoning + _core(content[reasoning:])[0] if content[reasoning:close].strip() else None
    return inner, content.rindex("</think>") + len("</think>")


def _stops(content: str) -> Iterator[CharRange]:
    """Where an answer may end in the rendered text."""
    start, core = _core(content)
    yield from ((offset, offset) for offset in _edge(content, len(content), core))
    yield from ((core, core - inner) for inner in (1, 2, 4, 8, 16, 32) if core - inner >= start)


def _unstable(number: int) -> RowProblem:
    return RowProblem(
        "unstable_template",
        f"the chat template changes turn {number} so that its answer cannot be found in the text",
    )
