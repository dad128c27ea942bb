"""A conversation -> the text that a chat template renders from it, and the position of each answer in that text.

The template is compiled and run as in `apply_chat_template` of transformers, so the text is exactly the same, with
one exception: a template that asks for today's date (strftime_now) gets a fixed date, because a corpus must give the
same tokens tomorrow.

Tool calls are written in the spelling that the template reads (spellings.py), and a conversation of which it leaves
out tools, calls, results or reasoning is refused (left_out.py). Where the answers stand is found by answers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jinja2

from tamis.operators.conversation.conversation import Conversation, Message
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.answers import AnswerFinder, CharRange
from tamis.operators.tokens.chat_template import compile_template
from tamis.operators.tokens.left_out import instructions_left_out, left_out, reasoning_left_out, writes_reasoning
from tamis.operators.tokens.spellings import spellings

# For a tokenizer without a template: "User: ...\n\nAssistant: ..." with the end-of-text token after each answer.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
)
MOST_CHARACTERS = 1 << 23
"""A longer text cannot be the rendering of a conversation, which has at most 4 MiB (tokenizer.MOST_BYTES)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """text: the rendered conversation. answers: half-open character ranges in it, one per assistant turn that is
    trained on, in order.

    A range covers what the turn says as rendered (reasoning, content, tool calls), without the end-of-turn marker. It
    is empty if the template drops the whole content (a turn that was only reasoning).
    """

    text: str
    answers: tuple[CharRange, ...]


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
        self._reserved = {"messages", "add_generation_prompt", *variables}
        self._writes_reasoning: bool | None = None

    def text(self, conversation: Conversation) -> str:
        """The rendered conversation, without a generation prompt.

        Raises RowProblem: template_error; not_rendered if the template leaves out instructions, tools or reasoning;
        bad_content if the row sets a variable that is not its to set.
        """
        return self._fitted(conversation)[1]

    def render_all(self, conversations: Sequence[Conversation]) -> list[Rendered | RowProblem]:
        """What `render` returns for each conversation, or the problem that it raises."""
        found: list[Rendered | RowProblem] = []
        for conversation in conversations:
            try:
                found.append(self.render(conversation))
            except RowProblem as problem:
                found.append(problem)
        return found

    def render(self, conversation: Conversation) -> Rendered:
        """The text and its answers. Raises RowProblem: those of `text`, unstable_template, and too_many_turns if the
        template makes the answers so hard to find that it would take hours.
        """
        messages, text = self._fitted(conversation)
        finder = AnswerFinder(
            partial(self._write, variables=conversation.variables),
            partial(self._write, variables={**conversation.variables, "add_generation_prompt": True}),
            messages,
            text,
        )
        return Rendered(text, tuple(finder.find(conversation.answers)))

    def _fitted(self, conversation: Conversation) -> tuple[Sequence[Message], str]:
        """The messages in the first spelling of which the template leaves nothing out, and their text."""
        messages, variables = conversation.messages, conversation.variables
        if conversation.is_plain:
            text = self._write(messages, variables)
            if problem := instructions_left_out(self._write, messages, variables, text):
                raise problem
            return messages, text
        if taken := [name for name in variables if name in self._reserved]:
            raise RowProblem("bad_content", f"the row sets {taken[0]} for the chat template, which tamis sets")
        problems: list[RowProblem] = []
        for spelt in spellings(messages):
            try:
                text = self._write(spelt, variables)
                problem = left_out(self._write, spelt, variables, text)
                problem = problem or instructions_left_out(self._write, spelt, variables, text)
            except BeyondLimits:
                raise
            except RowProblem as refused:
                problem = refused
            if problem is None:
                self._check_reasoning(messages)
                return spelt, text
            problems.append(problem)
        raise next((problem for problem in problems if problem.code == "not_rendered"), problems[0])

    def _check_reasoning(self, messages: Sequence[Message]) -> None:
        problem = reasoning_left_out(messages)
        if problem is not None:
            if self._writes_reasoning is None:
                self._writes_reasoning = writes_reasoning(self._write)
            if not self._writes_reasoning:
                raise problem

    def _write(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> str:
        try:
            text = str(self._template.render({**self._variables, **variables}, messages=list(messages)))
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


MakeRenderer = Callable[[str, Mapping[str, str]], Renderer]
"""template, variables -> the renderer."""
