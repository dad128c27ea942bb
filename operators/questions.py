"""Prompts -> the token ids after which a chat model writes its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from tamis.operators.problems import RowProblem
from tamis.operators.tokens import ChatTokenizer

_ASKED = "{% set add_generation_prompt = true %}"
_PLAIN = "{% for message in messages %}User: {{ message['content'] }}\n\nAssistant:{% endfor %}"


class QuestionTokenizer(ChatTokenizer):
    """A ChatTokenizer that renders one user turn and the template's generation prompt.

    A tokenizer without a template gets a plain one, as conversations do. Special-token strings inside a prompt stay
    text, as they do in conversations.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        if template is not None or tokenizer.chat_template:
            source = tokenizer.get_chat_template(template)
        else:
            opening = tokenizer.backend_tokenizer.encode("x").ids[:1]  # does it put a BOS before ordinary text?
            has_bos = tokenizer.bos_token_id is not None and opening == [tokenizer.bos_token_id]
            source = ("{{ bos_token }}" if has_bos else "") + _PLAIN
        super().__init__(tokenizer, _ASKED + source)

    def questions(self, prompts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """Token ids (T_i,) of each prompt. ValueError, which does not repeat it, for one that has none."""
        return [self._question(number, prompt) for number, prompt in enumerate(prompts)]

    def _question(self, number: int, prompt: str) -> npt.NDArray[np.int64]:
        turns = [{"role": "user", "content": prompt}]
        try:
            text = self._renderer.text(turns)
            ids = self._backend.encode(text, add_special_tokens=False).ids
            if not self._controls.are_the_templates(turns, text, ids):
                ids, _ = self._controls.encode(turns, text)
        except RowProblem as problem:
            raise ValueError(f"prompt {number} (counted from 0): {problem}") from problem
        if not ids:
            raise ValueError(f"prompt {number} (counted from 0) has no tokens")
        return np.array(ids, dtype=np.int64)
