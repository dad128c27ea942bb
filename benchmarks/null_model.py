"""A model that costs next to nothing, and a corpus for it: what is measured then is the pipeline around the model.

One random block of width 16, with a tokenizer trained on the corpus' words. Nothing is left out: it is loaded, checked
and run as any other model.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def write_corpus(path: Path, rows: int) -> None:
    """Short samples of about 60 tokens, seeded."""
    chance = random.Random(0)
    words = _words()
    with path.open("w") as file:
        for _ in range(rows):
            instruction = " ".join(chance.choices(words, k=chance.randint(6, 20)))
            output = " ".join(chance.choices(words, k=chance.randint(20, 60)))
            file.write(json.dumps({"instruction": instruction, "input": "", "output": output}) + "\n")


def make_model(path: Path, seed: int = 0, width: int = 16) -> Path:
    """A random one-block model and a tokenizer trained on the corpus' words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = _words()
    tokenizer.train_from_iterator([" ".join(words)] * 5, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")
    wrapped.add_special_tokens({"additional_special_tokens": special[2:]})
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(path)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(path, safe_serialization=True)
    return path


def _words() -> list[str]:
    chance = random.Random(1)
    syllables = [
        "ka",
        "ro",
        "mi",
        "ten",
        "sol",
        "bar",
        "lin",
        "du",
        "fe",
        "gra",
        "po",
        "ster",
        "na",
        "vi",
        "qua",
        "zen",
    ]
    return ["".join(chance.choices(syllables, k=chance.randint(1, 3))) for _ in range(800)]
