"""Tiny chat models whose vocabulary is words, some of them refusals; and the naive twin of the layer search."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from test_representations import BLOCKS, VOCABULARY, save
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from tamis.operators.generation.refusals import is_refusal

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>")
REFUSING = ("Sorry", "cannot", "can\u2019t", "can", "not")
WORDS = (*REFUSING, *(f"word{number}" for number in range(VOCABULARY - len(SPECIAL) - len(REFUSING))))
EOS = [2, 6]  # </s>, of the tokenizer, and <|end|>, of the generation config
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|> ' + message['content'] + ' <|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


@cache
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; decoding joins them with spaces."""
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def prompts(count: int, seed: int = 0, longest: int = 20) -> list[str]:
    """Texts of 1 to `longest` words, each length about as often."""
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, 1 + number % longest)) for number in range(count)]


def save_chat(config: PreTrainedConfig, folder: Path, seed: int = 0) -> Path:
    """A random model that ends its answers with either of EOS, with its tokenizer."""
    config = copy.deepcopy(config)
    config.bos_token_id, config.pad_token_id, config.eos_token_id = 1, 0, EOS[1]
    save(config, folder, seed)
    word_tokenizer().save_pretrained(folder)
    return folder


def published_matrices(block: torch.nn.Module) -> list[torch.nn.Parameter]:
    """The weights of linear layers and of stacked experts, found by their types."""
    found: dict[int, torch.nn.Parameter] = {}
    for module in block.modules():
        if isinstance(module, torch.nn.Linear | Conv1D):
            found[id(module.weight)] = module.weight
        elif type(module).__name__.endswith(("Experts", "Router")):
            weights = [p for name, p in module.named_parameters(recurse=False) if p.ndim > 1 and "bias" not in name]
            found.update((id(parameter), parameter) for parameter in weights)
    return list(found.values())


class Published:
    """The published way: a deep copy of the model for each cell, one prompt at a time through `generate`."""

    def __init__(self, folder: Path, **how: Any) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, **{"dtype": torch.float32, **how}).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def answers(
        self, texts: Sequence[str], cell: tuple[int, float] | None = None, new_tokens: int = 32
    ) -> list[list[int]]:
        model = copy.deepcopy(self.model)
        if cell is not None:
            lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
            blocks = next(found for found in lists if len(found) == BLOCKS)
            with torch.no_grad():
                for parameter in published_matrices(blocks[cell[0]]):
                    parameter *= cell[1]
        answers = []
        for text in texts:
            ids = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
            with torch.no_grad():
                output = model.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=new_tokens,
                    eos_token_id=EOS,
                    pad_token_id=0,
                )
            answers.append(output[0, ids.shape[1] :].tolist())
        return answers

    def refusals(
        self,
        texts: Sequence[str],
        cell: tuple[int, float] | None = None,
        new_tokens: int = 32,
        extra: Sequence[str] = (),
    ) -> int:
        answers = self.answers(texts, cell, new_tokens)
        return sum(is_refusal(self.tokenizer.decode(answer, skip_special_tokens=True), extra) for answer in answers)
