"""Conversations -> token ids, and which of the tokens are answers.

The text is rendered by the tokenizer's chat template (or a given template, or a plain one if there is none) and
tokenised without adding special tokens: the template writes its own, so there is never a second BOS. An
answer's tokens are the tokens that overlap its characters in the rendered text. Special-token strings inside
messages stay text (control_tokens.py). No call changes any state, so threads may share a ChatTokenizer.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from tokenizers import Tokenizer

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.answers import CharRange
from tamis.operators.tokens.chat_template import FIXED_DATE
from tamis.operators.tokens.control_tokens import ControlTokens, Tokens
from tamis.operators.tokens.rendering import PLAIN_TEMPLATE, MakeRenderer, Renderer
from tamis.operators.tokens.spelling import in_words, pieces
from tamis.operators.tokens.tokenised import Tokenised

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Overlong = Literal["quarantine", "keep_end", "keep_start"]

MOST_BYTES = 4 << 20
"""A longer conversation is too long whatever max_tokens is: tokenising it would fill gigabytes to keep a few tokens."""

_AROUND = 16
_BATCH_CHARACTERS = 1_000_000  # of text per tokenizer call: its result takes some 50 bytes per character


class ChatTokenizer:
    """tokenizer: a fast tokenizer of transformers; it is copied, not changed.
    template: Jinja source, or the name of one of the tokenizer's templates; None takes the tokenizer's own: if it has
        one for tools (tool_use), that one for conversations with tools, as transformers does.
    renderer: where the template runs. `Renderer` runs it in this process and trusts the template to terminate.

    Raises ValueError if the tokenizer is not a fast one or the template is not valid.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, renderer: MakeRenderer = Renderer
    ) -> None:
        specification = _specification(tokenizer)
        named = {name: str(string) for name, string in tokenizer.special_tokens_map.items()}
        has_template = template is not None or bool(tokenizer.chat_template)
        if has_template:
            source, variables = _template(tokenizer, template), named
        else:
            opening = named.get("bos_token", "") if _adds_bos(tokenizer) else ""
            source, variables = (
                PLAIN_TEMPLATE,
                {"bos_token": opening, "eos_token": named.get("eos_token", "")},
            )
        self._make(renderer, specification, source, variables, tokenizer.bos_token_id, has_template)

    def _make(
        self,
        renderer: MakeRenderer,
        specification: dict[str, Any],
        source: str,
        variables: dict[str, str],
        bos: int | None,
        has_template: bool,
    ) -> None:
        self.has_template = has_template
        self._parts = (specification, source, variables, bos, has_template)
        self._backend = Tokenizer.from_str(json.dumps(specification))
        self._renderer = renderer(source, variables)
        self._controls = ControlTokens(self._backend, specification, self._renderer)
        self._bos = bos
        facts = [specification, source, variables, bos, str(FIXED_DATE)]
        self.fingerprint: str = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The complete tokenizer as JSON. As long as its tokenizer.json: up to some 20 million characters."""
        return json.dumps(self._parts)

    @classmethod
    def from_json(cls, text: str, renderer: MakeRenderer = Renderer) -> Self:
        """The same tokenizer, with the same fingerprint, without transformers, which takes seconds to import."""
        made = cls.__new__(cls)
        made._make(renderer, *json.loads(text))
        return made

    @classmethod
    def load(
        cls,
        path: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        template: str | None = None,
        renderer: MakeRenderer = Renderer,
    ) -> Self:
        """From a model folder or name. Raises ValueError if the tokenizer is not fast, OSError if absent."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        return cls(tokenizer, template, renderer)

    @property
    def highest_id(self) -> int:
        """The largest token id that the tokenizer knows, added tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def control_ids(self) -> frozenset[int]:
        """Ids of the tokens that only a template may write."""
        return self._controls.ids

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text that each token adds to the tokens before it, control tokens included."""
        return pieces(lambda some: self._backend.decode(some, skip_special_tokens=False), ids)

    def spelling(self, token: int) -> str:
        """The text of one token; for a part of a character its bytes, for a control token its name."""
        text: str = self._backend.decode([token], skip_special_tokens=False)
        if text and "\ufffd" not in text:
            return text
        name: str = self._backend.id_to_token(token) or ""
        return in_words(name) if text else name

    def encode(
        self, conversations: Sequence[Conversation], *, max_tokens: int, overlong: Overlong
    ) -> list[Tokenised | RowProblem]:
        """One entry per conversation, in order: its tokens, or the problem why there are none.

        conversations: as `normalise` returns them: the last message is the assistant's, and is trained on.
        max_tokens: the most tokens a conversation may have.
        overlong: what happens to a conversation with more tokens:
            quarantine  RowProblem("overlong")
            keep_start  keeps the first max_tokens
            keep_end    keeps the last max_tokens; a BOS at the start is kept in place of one of them

        Problems: template_error, not_rendered, unstable_template, too_many_turns, special_token_in_text,
        bad_content, tokenizer_error, overlong (for more than MOST_BYTES, also with keep_start and keep_end),
        response_cut (truncation leaves no token of the final answer), empty_response (the tokenizer or the template
        leaves no token of it).
        Raises ValueError for a setting out of range.
        """
        if max_tokens < 1 or overlong not in get_args(Overlong):
            raise ValueError(
                f"max_tokens={max_tokens} must be at least 1, overlong={overlong!r} one of "
                f"{', '.join(get_args(Overlong))}"
            )
        results: list[Tokenised | RowProblem | None] = [None] * len(conversations)
        texts: dict[int, str] = {}
        answers: dict[int, tuple[CharRange, ...]] = {}
        fitting = []
        for row, conversation in enumerate(conversations):
            try:
                _check_size(conversation)
                fitting.append(row)
            except RowProblem as problem:
                results[row] = problem
        outcomes = self._renderer.render_all([conversations[row] for row in fitting])
        for row, rendered in zip(fitting, outcomes, strict=True):
            if isinstance(rendered, RowProblem):
                results[row] = rendered
            else:
                texts[row], answers[row] = rendered.text, rendered.answers
        for row, tokens in self._tokens(texts):
            try:
                if isinstance(tokens, RowProblem):
                    raise tokens
                if not self._controls.are_the_templates(conversations[row], texts[row], tokens[0]):
                    tokens = self._controls.encode(conversations[row], texts[row])
                results[row] = self._tokenised(tokens, answers[row], max_tokens, overlong)
            except RowProblem as problem:
                results[row] = problem
        return [result for result in results if result is not None]

    def _tokens(self, texts: dict[int, str]) -> Iterator[tuple[int, Tokens | RowProblem]]:
        """The tokenizer's own tokens of each text, encoded in batches of a bounded number of characters."""
        rows, characters = [], 0
        for row, text in texts.items():
            rows.append(row)
            characters += len(text)
            if characters >= _BATCH_CHARACTERS:
                yield from self._batch(rows, texts)
                rows, characters = [], 0
        yield from self._batch(rows, texts)

    def _batch(self, rows: list[int], texts: dict[int, str]) -> Iterator[tuple[int, Tokens | RowProblem]]:
        try:
            encodings = self._backend.encode_batch([texts[row] for row in rows], add_special_tokens=False)
        except BaseException as error:
            # a panic of the tokenizers' Rust code is no Exception, and its class has no name to import
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            if len(rows) > 1:  # one bad text must not fail the others
                for row in rows:
                    yield from self._batch([row], texts)
            else:
                problem = RowProblem(
                    "tokenizer_error", f"the tokenizer cannot encode this text ({type(error).__name__})"
                )
                yield rows[0], problem
            return
        for row, encoding in zip(rows, encodings, strict=True):
            yield row, (encoding.ids, encoding.offsets)

    def _tokenised(
        self, tokens: Tokens, answers: Sequence[CharRange], max_tokens: int, overlong: Overlong
    ) -> Tokenised:
        ids, offsets = tokens
        spans = [self._token_span(ids, offsets, answer) for answer in answers]
        if not spans or spans[-1][0] >= spans[-1][1]:
            raise RowProblem("empty_response", "the final answer has no tokens")
        excess = len(ids) - max_tokens
        if excess > 0:
            if overlong == "quarantine":
                raise RowProblem(
                    "overlong",
                    f"{len(ids)} tokens, over max_tokens={max_tokens}; set overlong to keep_end or "
                    "keep_start, or raise max_tokens",
                )
            head = int(overlong == "keep_end" and ids[0] == self._bos)
            # the tokens cut out are [first, first + excess)
            first = head if overlong == "keep_end" else max_tokens
            ids = ids[:first] + ids[first + excess :]
            spans = [(_moved(start, first, excess), _moved(stop, first, excess)) for start, stop in spans]
            if spans[-1][0] >= spans[-1][1]:
                raise RowProblem("response_cut", f"max_tokens={max_tokens} leaves no token of the final answer")
        return Tokenised(
            input_ids=np.array(ids, dtype=np.int32),
            responses=tuple([span for span in spans if span[0] < span[1]]),
            truncated=excess > 0,
            prompt_cut=excess > 0 and overlong == "keep_end" and spans[-1][0] <= head,
        )

    def _token_span(self, ids: list[int], offsets: list[CharRange], answer: CharRange) -> CharRange:
        """The range of tokens that overlap these characters. Character ranges of tokens never go backwards."""
        if answer[0] == answer[1]:
            return 0, 0
        start = bisect_right(offsets, answer[0], key=itemgetter(1))
        stop = bisect_left(offsets, answer[1], key=itemgetter(0))
        # a control token that includes the white space next to it may reach into the answer; one that stands in it is
        # part of a tool call
        while start < stop and ids[start] in self._controls.ids and offsets[start][0] < answer[0]:
            start += 1
        while start < stop and ids[stop - 1] in self._controls.ids and offsets[stop - 1][1] > answer[1]:
            stop -= 1
        return start, stop


def _template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """The source of the template, or one source that holds the two that transformers chooses from."""
    named = tokenizer.chat_template
    if template is not None or not isinstance(named, dict) or not {"default", "tool_use"} <= named.keys():
        return str(tokenizer.get_chat_template(template))
    # Jinja drops the last line end of a template. Beside an expression, it drops no white space.
    plain, tools = (f"{{{{ '' }}}}{named[name].removesuffix(chr(10))}{{{{ '' }}}}" for name in ("default", "tool_use"))
    return f"{{% if tools %}}{tools}{{% else %}}{plain}{{% endif %}}"


def _check_size(conversation: Conversation) -> None:
    """Raises RowProblem("overlong") for more than MOST_BYTES, counting some bytes of template around every turn, and
    around every text and number of tools and calls."""
    count = len(conversation.messages)
    if conversation.is_plain:
        texts = [message["content"] for message in conversation.messages]
    else:
        texts = list(conversation.texts())
        count = max(count, len(texts))
    if 4 * (sum(map(len, texts)) + _AROUND * count) > MOST_BYTES:
        size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) + _AROUND * count
        if size > MOST_BYTES:
            raise RowProblem(
                "overlong", f"a conversation of {size:,} bytes; more than {MOST_BYTES:,} are never tokenised"
            )


def _moved(index: int, first: int, excess: int) -> int:
    """The new index of a token boundary after the tokens [first, first + excess) are cut out."""
    return index if index <= first else max(first, index - excess)


def _specification(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The JSON of the tokenizer's backend, reduced to what ids and offsets depend on.

    Truncation and padding may be set in a tokenizer's file and would silently cut or pad; the post-processor only
    adds special tokens and hides the white space in offsets; dropout would make ids random.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} is not a fast tokenizer (one with a tokenizer.json); it is needed "
            "to find the answers in the text; convert it, or use a model that has one"
        )
    try:
        specification: dict[str, Any] = json.loads(backend.to_str())
    except Exception as error:  # components written in Python cannot be saved
        raise ValueError(f"the tokenizer cannot be copied: {error}") from error
    specification |= {"truncation": None, "padding": None, "post_processor": None}
    if specification["model"].get("dropout") is not None:
        specification["model"]["dropout"] = None
    return specification


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a BOS before ordinary text."""
    opening = tokenizer.backend_tokenizer.encode("x").ids[:1]  # unlike calling the tokenizer, this changes nothing
    return tokenizer.bos_token_id is not None and opening == [tokenizer.bos_token_id]
