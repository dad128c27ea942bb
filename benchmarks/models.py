"""The models that the benchmarks run: random ones of a given shape, and what one forward pass through them costs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpora
import numpy as np
import numpy.typing as npt
import torch
from chat_tokenizers import save_tokenizer
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

DONE = "whole.txt"  # written last into a model's folder
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Shape:
    """A Llama. block: the block that LARF would read, its default here."""

    width: int
    mlp: int
    heads: int
    kv_heads: int
    blocks: int
    vocabulary: int
    block: int
    rope_theta: float = 10000.0

    def config(self, vocabulary: int | None = None) -> LlamaConfig:
        return LlamaConfig(
            vocab_size=vocabulary or self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.mlp,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=8192,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )


SHAPES = {
    "tiny": Shape(width=64, mlp=128, heads=4, kv_heads=2, blocks=4, vocabulary=2000, block=1),
    "small16": Shape(width=512, mlp=1408, heads=8, kv_heads=8, blocks=16, vocabulary=32_000, block=5),
    "8b": Shape(
        width=4096, mlp=14336, heads=32, kv_heads=8, blocks=32, vocabulary=128_256, block=10, rope_theta=500_000.0
    ),
}


def make_random(config: LlamaConfig, *, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Any:
    """A random Llama, made on the device in its dtype: an 8B one needs neither the disk nor the host's memory."""
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def save_up_to(model: Any, folder: Path, block: int) -> None:
    """Write the folder of `model` as safetensors without the blocks above the one that follows `block`.

    The config names as many blocks as are there: a folder whose weights and config differ is refused. What reads only
    the blocks it needs, as tamis does, misses nothing; and of a 32-block 8B model two thirds need not be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = min(block + 2, config.num_hidden_layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    config.save_pretrained(folder)
    kept = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < config.num_hidden_layers
    }
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def make_folder(folder: Path, shape: str, block: int, *, dtype: str, device: torch.device, texts: list[str]) -> Path:
    """A random model up to `block`, with its tokenizer: a real one if there is one, else one learned from `texts`.

    A folder that holds it already is left as it is: an 8B-shaped one takes its time to write, and several scripts
    can share it.
    """
    made, wanted = folder / DONE, f"{shape}, up to block {block}, {dtype}"
    if made.exists() and made.read_text() != wanted:
        raise SystemExit(f"{folder} holds {made.read_text()}, and {wanted} is wanted; name another folder")
    if not made.exists():
        config = SHAPES[shape].config()
        save_up_to(make_random(config, dtype=DTYPES[dtype], device=device), folder, block)
        real = corpora.shared_file("models/aligned-8m")
        if real is not None and AutoTokenizer.from_pretrained(real).vocab_size <= config.vocab_size:
            AutoTokenizer.from_pretrained(real).save_pretrained(folder)
        else:
            save_tokenizer(folder, texts, config.vocab_size)
        made.write_text(wanted)
    return folder


def load_full(folder: Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """The full model of a folder, LM head and all, as the published code loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()


def blocks_of(model: Any) -> nn.ModuleList:
    """The model's list of blocks."""
    count = model.config.num_hidden_layers
    found = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    assert isinstance(found, nn.ModuleList)
    return found


def linear_shapes(block: nn.Module) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each weight matrix of a block, by its own name, e.g. q_proj."""
    if any(parameter.ndim > 2 for parameter in block.parameters()):
        raise SystemExit("FLOPs are counted for dense blocks only; this model has experts")
    linear = {
        name.rpartition(".")[2]: module for name, module in block.named_modules() if isinstance(module, nn.Linear)
    }
    return {name: (module.in_features, module.out_features) for name, module in linear.items()}


@dataclass(frozen=True)
class Work:
    """FLOPs that a corpus needs up to the output of one block, padding not counted.

    standard: 2 x weights x tokens of every block, and causal attention (2 x width of the heads x T (T + 1) per row
    and block). least: in the last block only keys and values of all tokens, the rest for one token of each row.
    """

    standard: float
    least: float


def work(model: Any, lengths: npt.NDArray[np.int64], block: int) -> Work:
    config = model.config
    weights = {name: inputs * outputs for name, (inputs, outputs) in linear_shapes(blocks_of(model)[0]).items()}
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads_width = float(config.num_attention_heads * head)
    sizes = lengths.astype(np.float64)
    matrices, attention = 2.0 * sum(weights.values()) * sizes.sum(), 2.0 * heads_width * (sizes * (sizes + 1)).sum()
    keys_values = 2.0 * sum(size for name, size in weights.items() if name in ("k_proj", "v_proj")) * sizes.sum()
    others = 2.0 * sum(size for name, size in weights.items() if name not in ("k_proj", "v_proj")) * len(sizes)
    last = keys_values + others + 4.0 * heads_width * sizes.sum()
    return Work(standard=(block + 1) * (matrices + attention), least=block * (matrices + attention) + last)
