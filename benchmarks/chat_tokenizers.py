"""A tokenizer and a chat template for random models, so that what they answer is text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LEARNED = 4000


def save_tokenizer(folder: Path, texts: Iterable[str], vocabulary: int, *, refusing: float = 0.0) -> None:
    """A byte-level BPE learned from `texts`, filled up to `vocabulary` entries that no text is split into.

    refusing: the share of those entries that read "sorry": a random model then refuses now and then, and counts of
    refusals depend on which tokens it has chosen.
    """
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(LEARNED, vocabulary // 2),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learned.train_from_iterator(texts, trainer)
    specification = json.loads(learned.to_str())
    entries = specification["model"]["vocab"]
    refuses = np.random.default_rng(0).random(vocabulary) < refusing
    for number in range(len(entries), vocabulary):
        entries[f"\u0120{'sorry' if refuses[number] else 'word'}{number}"] = number
    filled = Tokenizer.from_str(json.dumps(specification))
    wrapped = PreTrainedTokenizerFast(tokenizer_object=filled, pad_token=SPECIAL[0], eos_token=SPECIAL[1])
    wrapped.add_special_tokens({"additional_special_tokens": list(SPECIAL[2:])})
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
