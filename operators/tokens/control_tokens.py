"""Which tokens control a chat, and how to tokenise a text so that only the template writes such tokens.

A special token's string inside a message ("<|im_end|>" typed by a user) is text. A tokenizer cannot distinguish it
from the same string written by the template, so such a conversation is tokenised in pieces: the template's control
tokens by their id, and the text between them with special tokens switched off.

Control tokens are the tokenizer's special tokens and those added tokens that the template writes around any
content. Tags in angle brackets that are not special (<think>, <tool_call>) are left to the tokenizer, because answers
may legitimately contain them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tamis.operators.conversation.conversation import REASONING, Conversation, arguments_object
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.answers import unused_characters
from tamis.operators.tokens.rendering import Renderer

_TAG = re.compile(r"</?\w+>")
_BRACKETED = re.compile(r"[^\w\s].*[^\w\s]", re.DOTALL)
_SHAPES_KEPT = 4096
_LONGEST_KEPT = 1000
"""In turns. Longer conversations are rare, and thousands of their shapes would fill the memory."""
_NEUTRAL = "x"
_WORDS = re.compile(r"[\w .,:/-]*", re.ASCII)

Tokens = tuple[list[int], list[tuple[int, int]]]  # ids, half-open character ranges
Skeleton = tuple[tuple[str, bool], ...]


class ControlTokens:
    """backend: a tokenizer without post-processor, truncation or padding. specification: its JSON."""

    def __init__(self, backend: Tokenizer, specification: dict[str, Any], renderer: Renderer) -> None:
        self._backend = backend
        self._specification = specification
        self._renderer = renderer
        self._shapes: dict[Skeleton, list[int] | None] = {}
        added = {id_: token for id_, token in backend.get_added_tokens_decoder().items() if token.content}
        written = self._written([token.content for token in added.values() if _steers(token)])
        self._tokens = {
            token.content: (id_, token) for id_, token in added.items() if token.special or token.content in written
        }
        # the model's own token for unknown characters stands for ordinary text
        unknown = _unknown_token(specification["model"])
        self._unknown = unknown if unknown in self._tokens and unknown not in written else None
        self.ids = frozenset(id_ for content, (id_, _) in self._tokens.items() if content != self._unknown)
        # longest first: if one token's string is a prefix of another's, the tokenizer takes the longer one
        strings = sorted(self._tokens, key=lambda content: (-len(content), content))
        self._pattern = re.compile("|".join(map(re.escape, strings)) or r"(?!)")

    def are_the_templates(self, conversation: Conversation, text: str, ids: Sequence[int]) -> bool:
        """Whether the control tokens in these ids are exactly those that the template writes around any content."""
        if self._unknown is not None and self._unknown in text:
            return False
        return [id_ for id_ in ids if id_ in self.ids] == self._expected(conversation)

    def encode(self, conversation: Conversation, text: str) -> Tokens:
        """Tokens of the rendered text, with control strings inside contents encoded as text.

        Two checks run for every conversation. The same steps, on the same text with its control strings replaced by
        neutral text, must give the tokenizer's own result. And the result must contain no control token that the
        template did not write.
        Raises RowProblem("special_token_in_text") if the two kinds cannot be told apart.
        """
        expected = self._expected(conversation)
        if expected is None:
            raise RowProblem("unstable_template", "the chat template renders these roles with some contents only")
        typed = sorted({found for said in conversation.texts() for found in self._pattern.findall(said)})
        marks = dict(zip(typed, unused_characters(text, len(typed)), strict=True))
        marked = self._renderer.text(
            conversation.with_text(lambda said: self._pattern.sub(lambda found: marks[found[0]], said))
        )
        back = {ord(mark): string for string, mark in marks.items()}
        if marked.translate(back) != text:
            raise _inseparable("changes what the chat template writes")
        neutral = marked.translate({ord(mark): _NEUTRAL for mark in marks.values()})
        if self._in_pieces(neutral, {})[0] != self._backend.encode(neutral, add_special_tokens=False).ids:
            raise _inseparable("cannot be kept apart from the template's by this tokenizer")
        ids, offsets = self._in_pieces(marked, back)
        if [id_ for id_ in ids if id_ in self.ids] != expected:
            raise _inseparable("would become a control token")
        return ids, offsets

    def _in_pieces(self, marked: str, back: dict[int, str]) -> Tokens:
        """Encodes every control string in `marked` by its id, and the rest as text with the marks put back."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        position = 0
        for id_, piece in self._pieces(marked):
            text = piece.translate(back)
            if id_ is not None:
                ids.append(id_)
                offsets.append((position, position + len(text)))
            elif text:
                # a prefix space belongs only to the very first piece
                encoded = (self._literal if position else self._literal_first).encode(text, add_special_tokens=False)
                ids += encoded.ids
                offsets += [(start + position, stop + position) for start, stop in encoded.offsets]
            position += len(text)
        return ids, offsets

    def _pieces(self, text: str) -> Iterator[tuple[int | None, str]]:
        """(id of a control token or None, its part of the text), split as the tokenizer splits."""
        done = 0
        for found in self._pattern.finditer(text):
            id_, token = self._tokens[found[0]]
            start, stop = found.span()
            if token.lstrip:
                start = len(text[:start].rstrip())
            if token.rstrip:
                stop = len(text) - len(text[stop:].lstrip())
            start = max(start, done)
            yield None, text[done:start]
            yield id_, text[start:stop]
            done = stop
        yield None, text[done:]

    def _expected(self, conversation: Conversation) -> list[int] | None:
        """The control tokens of a conversation with these roles; None if the template cannot render it with neutral
        contents.

        Whether a content is empty matters too: templates omit an empty system turn.
        """
        if not conversation.is_plain:
            return self._expected_of_tools(conversation)
        shape = tuple([(message["role"], not message["content"].strip()) for message in conversation.messages])
        if shape not in self._shapes:
            if len(self._shapes) >= _SHAPES_KEPT or len(shape) > _LONGEST_KEPT:
                self._shapes.clear()
            neutral = [{"role": role, "content": "" if empty else _NEUTRAL} for role, empty in shape]
            self._shapes[shape] = self._controls_of(Conversation(neutral))
        return self._shapes[shape]

    def _expected_of_tools(self, conversation: Conversation) -> list[int] | None:
        """The same for a conversation with tools or reasoning. Its calls and tools keep their form and the words in
        them, which a template may read; if it cannot render that, only control strings are made neutral."""
        found = self._controls_of(self._neutral(conversation))
        if found is None:
            found = self._controls_of(conversation.with_text(lambda said: self._pattern.sub(_NEUTRAL, said)))
        return found

    def _neutral(self, conversation: Conversation) -> Conversation:
        messages = []
        for message in conversation.messages:
            neutral = {key: value if key == "role" else self._neutral_value(value) for key, value in message.items()}
            for key in {"content", *REASONING} & message.keys():
                neutral[key] = _NEUTRAL if message[key].strip() else ""
            messages.append(neutral)
        return Conversation(messages, self._neutral_value(conversation.variables), conversation.trained)

    def _neutral_value(self, value: Any) -> Any:
        """The value with the same form: every text that is more than words is neutral."""
        if isinstance(value, str):
            if _WORDS.fullmatch(value) and not self._pattern.search(value):
                return value
            held = arguments_object(value)
            return _NEUTRAL if held is None else json.dumps(self._neutral_value(held))
        if isinstance(value, Mapping):
            keys = (self._neutral_value(key) for key in value)
            # as many keys as before
            return {
                key if key in value else f"{key}{number}": self._neutral_value(item)
                for number, (key, item) in enumerate(zip(keys, value.values(), strict=True))
            }
        return [self._neutral_value(item) for item in value] if isinstance(value, list) else value

    def _controls_of(self, conversation: Conversation) -> list[int] | None:
        try:
            ids = self._backend.encode(self._renderer.text(conversation), add_special_tokens=False).ids
        except RowProblem:
            return None
        return [id_ for id_ in ids if id_ in self.ids]

    def _written(self, contents: Sequence[str]) -> set[str]:
        """The added tokens that the template itself writes."""
        found: set[str] = set()
        for roles in (("user", "assistant"), ("user", "assistant") * 2, ("system", "user", "assistant")):
            try:
                text = self._renderer.text(Conversation([{"role": role, "content": _NEUTRAL} for role in roles]))
            except RowProblem:
                continue
            found |= {content for content in contents if content in text}
        return found

    @cached_property
    def _literal_first(self) -> Tokenizer:
        """The tokenizer with its control tokens switched off, for a piece at the start of the text."""
        added = [
            {**token, "special": token["special"] or token["content"] in self._tokens}
            for token in self._specification["added_tokens"]
        ]
        tokenizer = Tokenizer.from_str(json.dumps({**self._specification, "added_tokens": added}))
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _literal(self) -> Tokenizer:
        """The same, for a piece that follows other tokens."""
        specification = json.loads(self._literal_first.to_str())
        if not _without_first_prefix(specification["pre_tokenizer"]):
            return self._literal_first
        tokenizer = Tokenizer.from_str(json.dumps(specification))
        tokenizer.encode_special_tokens = True
        return tokenizer


def _steers(token: AddedToken) -> bool:
    """Whether the token is special or looks like a marker (<|user|>, [INST]), not like a tag in contents or a word."""
    return token.special or bool(_BRACKETED.fullmatch(token.content) and not _TAG.fullmatch(token.content))


def _without_first_prefix(part: Any) -> bool:
    """Turns off, in place, prefix spaces that only the start of a text gets; returns whether there were any."""
    if isinstance(part, list):
        return sum(map(_without_first_prefix, part)) > 0
    if not isinstance(part, dict):
        return False
    if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
        part["prepend_scheme"] = "never"
        return True
    return sum(map(_without_first_prefix, part.values())) > 0


def _unknown_token(model: dict[str, Any]) -> str | None:
    if isinstance(number := model.get("unk_id"), int):
        return str(model["vocab"][number][0])
    return model.get("unk_token")


def _inseparable(why: str) -> RowProblem:
    return RowProblem("special_token_in_text", f"a special token's string inside a message {why}")
