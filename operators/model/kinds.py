"""Kinds of checkpoints that are not simply a causal language model: what is read of them, and what cannot be read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from tamis.operators.model.names import TextHalf

_DEQUANTISED = ("fp8", "mxfp4")
"""Quantised checkpoints whose weights transformers gives back in full precision, with torch alone, on any device."""

_SCALES = re.compile(r"_scale(_inv)?$")
_OTHER_BLOCKS = (1, 32)
"""Blocks of experts in four bits that stand beside fp8 matrices."""


def refuse_adapter(path: str | os.PathLike[str]) -> None:
    """ValueError, with what to do, for a folder that holds a LoRA adapter."""
    file = os.path.join(path, "adapter_config.json")
    if not os.path.isfile(file):
        return
    try:
        with open(file, encoding="utf-8") as stream:
            base = json.load(stream).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        base = None
    of = f" of {base!r:.200}" if isinstance(base, str) else ""
    raise ValueError(
        f"{path} holds an adapter{of} (adapter_config.json), not a whole model; merge the two and give the result: "
        'python -c "from peft import AutoPeftModelForCausalLM as M; from transformers import AutoTokenizer as T; '
        "M.from_pretrained('ADAPTER').merge_and_unload().save_pretrained('MERGED'); "
        "T.from_pretrained('BASE').save_pretrained('MERGED')\""
    )


def language_model(config: Any, *, own_code: bool) -> Any:
    """The config of the language model in the checkpoint that `config` describes: itself, or of a multimodal one the
    config of its text half. ValueError if there is none that transformers can run from left to right.

    own_code: the model is not one of transformers', but code that came with it.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise ValueError(f"{kind} is an encoder-decoder; a decoder-only language model is needed")
    text = config.get_text_config()
    if text is config:
        if not own_code and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"{kind} is not a language model that transformers can run from left to right")
        return config
    if own_code or type(text) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"{kind} is a multi-modal model, and its text half ({text.model_type}) is none that transformers can run "
            "by itself; give a text-only checkpoint of it"
        )
    text._tamis_outer = config
    text.architectures = [transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(text)].__name__]
    text.tie_word_embeddings = config.tie_word_embeddings
    if getattr(text, "eos_token_id", None) is None:
        text.eos_token_id = getattr(config, "eos_token_id", None)
    if getattr(text, "quantization_config", None) is None and hasattr(config, "quantization_config"):
        text.quantization_config = config.quantization_config
    return text


def outer_of(config: Any) -> Any:
    """The config of the multimodal checkpoint of which `config` describes the text half; None for any other."""
    return getattr(config, "_tamis_outer", None)


def text_half(config: Any) -> TextHalf | None:
    """Where the language model of a multimodal checkpoint is among its tensors; None for any other checkpoint."""
    outer = outer_of(config)
    return None if outer is None else TextHalf(outer, config)


def read_quantised(config: Any) -> None:
    """Has a quantised checkpoint read in full precision, where that needs nothing but transformers and torch.
    ValueError, with what to do, where it does."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    method = settings.get("quant_method") if isinstance(settings, dict) else getattr(settings, "quant_method", None)
    method = str(getattr(method, "value", method))
    if isinstance(settings, dict) and method in _DEQUANTISED:
        config.quantization_config = {**settings, "dequantize": True}
        return
    raise ValueError(
        f"this {config.model_type} checkpoint is quantised ({method:.40}), which tamis does not read; give the "
        f"unquantised one that it was made from ({' and '.join(_DEQUANTISED)} checkpoints are read, in full precision)"
    )


def require_exact_scales(config: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """ValueError for fp8 weights that transformers would give back wrong: it takes a matrix to be divided evenly by its
    scales, and one whose size is no multiple of the blocks is not.

    shapes: of the checkpoint's tensors, by name.
    """
    settings = getattr(config, "quantization_config", None)
    if not isinstance(settings, dict):
        return
    block = settings.get("weight_block_size") or ()
    for name, scales in shapes.items():
        weight = shapes.get(_SCALES.sub("", name)) if _SCALES.search(name) else None
        if weight is None or len(scales) < 2 or len(block) != 2:
            continue
        for size, parts, wanted in zip(weight[-2:], scales[-2:], block, strict=True):
            if parts > 1 and size != parts * wanted and size // parts not in _OTHER_BLOCKS:
                raise ValueError(
                    f"the quantised {name.removesuffix('_inv')} has {parts} blocks of {wanted} for {size} rows or "
                    f"columns, which transformers {transformers.__version__} does not read right; give the unquantised "
                    "checkpoint"
                )
