"""Prompts -> the token ids after which a chat model writes its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tamis.operators.conversation.conversation import Conversation
from tamis.operators.problems import RowProblem
from tamis.operators.tokens.rendering import MakeRenderer, Renderer
from tamis.operators.tokens.tokenizer import ChatTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ASKED = "{% set add_generation_prompt = true %}"
_PLAIN = "{% for message in messages %}User: {{ message['content'] }}\n\nAssistant:{% endfor %}"


class QuestionTokenizer(ChatTokenizer):
    """A ChatTokenizer that renders one user turn and the template's generation prompt.

    A tokenizer without a template gets a plain one, as for conversations. Special-token strings inside a prompt stay
    text, as in conversations.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: str | None = None, renderer: MakeRenderer = Renderer
    ) -> None:
        if template is not None or tokenizer.chat_template:
            source = tokenizer.get_chat_template(template)
        else:
            source = ("{{ bos_token }}" if _adds_bos(tokenizer) else "") + _PLAIN
        super().__init__(tokenizer, _ASKED + source, renderer)

    def questions(self, prompts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids, int64 (T_i,), of each prompt. Raises ValueError, which does not quote the prompt, if a prompt
        cannot be rendered or has no tokens.
        """
        return [self._question(number, prompt) for number, prompt in enumerate(prompts)]

    def _question(self, number: int, prompt: str) -> npt.NDArray[np.int64]:
        asked = Conversation([{"role": "user", "content": prompt}])
        try:
            text = self._renderer.text(asked)
            ids = self._backend.encode(text, add_special_tokens=False).ids
            if not self._controls.are_the_templates(asked, text, ids):
                ids, _ = self._controls.encode(asked, text)
        except RowProblem as problem:
            raise ValueError(f"prompt {number} (counted from 0): {problem}") from problem
        if not ids:
            raise ValueError(f"prompt {number} (counted from 0) has no tokens")
        return np.array(ids, dtype=np.int64)


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a BOS before ordinary text. ChatTokenizer refuses a tokenizer that is not fast."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.bos_token_id is None:
        return False
    return bool(backend.encode("x").ids[:1] == [tokenizer.bos_token_id])
