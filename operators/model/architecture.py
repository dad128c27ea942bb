"""What a model is, read only from its config, and how to cut it after one block.

The cut model is built from the UNCHANGED config and then loses the blocks above the cut, so every block that
stays is exactly the block of the full model: layer types, windows, expert positions, key-value sharing and
residual scales that depend on the number of blocks keep their meaning. Models are made on the meta device: no
memory is used for weights.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from tamis.operators.model.config_checks import check_blocks, check_config, check_size
from tamis.operators.model.dry_run import TOKENS, Observed, observe
from tamis.operators.model.info import ModelInfo
from tamis.operators.model.kinds import language_model, outer_of, read_quantised, refuse_adapter, text_half
from tamis.operators.model.names import Renaming, TextHalf, unwrapped

CODE_KEYS = ("AutoConfig", "AutoModel", "AutoModelForCausalLM")
FINAL_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "final_norm", "norm_f")
HEADS = ("lm_head", "embed_out")
_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True)
class ModelPart:
    """A model that ends after block `keep - 1`: built by `model_class`, filled with the tensors it needs."""

    config: Any
    model_class: Any
    blocks: str
    """Path of the list of blocks in the model, e.g. "layers" or "h"."""
    keep: int
    not_needed: re.Pattern[str]
    parameters: int
    """Parameters of the cut model; tied weights are counted once."""
    renaming: Renaming
    text: TextHalf | None = None
    """Of a multimodal checkpoint: where its language model is."""
    whole: Any = None
    """The model with all its blocks, on the meta device: without weights. None where nothing was cut off."""

    def needs(self, key: str) -> bool:
        """Whether the checkpoint's tensor `key` may belong to the cut model; True if in doubt."""
        return self.name(key) is not None

    def name(self, key: str) -> str | None:
        """The name under which transformers takes the checkpoint's tensor `key`; None if the cut model does not need
        it."""
        plain: str | None = unwrapped(key)
        if self.text is not None:
            plain = self.text.name(str(plain))
        if plain is None:
            return None
        match = self.not_needed.match(self.renaming.final(plain))
        if match is None or (match["block"] is not None and int(match["block"]) < self.keep):
            return plain
        return None


def describe_model(
    path: str | os.PathLike[str], *, revision: str | None = None, trust_remote_code: bool = False
) -> ModelInfo:
    """Describes the decoder in folder `path` (or of that name on the Hugging Face hub) from its config alone.

    Raises ValueError, with the reason, if it is not a decoder language model that can be run here; OSError if
    the hub cannot be reached or has no such model.
    """
    return describe(read_config(path, revision=revision, trust_remote_code=trust_remote_code))


def describe(config: Any) -> ModelInfo:
    """The same from a loaded transformers config."""
    numbers: dict[str, int] = {}
    for field in ("num_hidden_layers", "hidden_size", "vocab_size"):
        value = getattr(config, field, None)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"the model's config has {field}={value!r}; a whole number above 0 is needed")
        numbers[field] = value
    limit = getattr(config, "max_position_embeddings", None)
    architecture = (config.architectures or [type(config).__name__])[0]
    if (outer := outer_of(config)) is not None:
        architecture += f" (text half of {(outer.architectures or [outer.model_type])[0]})"
    return ModelInfo(
        architecture=architecture,
        blocks=numbers["num_hidden_layers"],
        width=numbers["hidden_size"],
        vocabulary=numbers["vocab_size"],
        max_positions=limit if isinstance(limit, int) and limit > 0 else None,
    )


def read_config(path: str | os.PathLike[str], *, revision: str | None, trust_remote_code: bool) -> Any:
    """The transformers config of a decoder language model. Raises as describe_model does."""
    local = require_folder(path)
    if local:
        refuse_adapter(path)
    if local and not os.path.isfile(os.path.join(path, "config.json")):
        raise ValueError(f"{path} has no config.json, so it is not a model folder")
    if local:
        check_size(path)
    try:
        raw, _ = transformers.PreTrainedConfig.get_config_dict(path, revision=revision)
    except Exception as error:  # e.g. numbers of thousands of digits, deeply nested brackets
        if not local and isinstance(error, OSError):
            raise
        raise ValueError(f"config.json of {path} cannot be read: {first_line(error)}") from error
    try:
        check_config(raw)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    # code beside an architecture that transformers has is not run unless it is trusted: transformers' own is
    names_code = sorted(set(CODE_KEYS) & set(raw.get("auto_map") or {}))
    model_type = raw.get("model_type")
    if model_type not in transformers.CONFIG_MAPPING:
        if not names_code:
            raise ValueError(
                f"config.json of {path} has model_type={model_type!r}, "
                f"an architecture that transformers {transformers.__version__} does not know"
            )
        if not trust_remote_code:
            raise ValueError(
                f"config.json of {path} names code of its own to run (auto_map: {', '.join(names_code)}), and "
                f"transformers {transformers.__version__} has no model_type={model_type!r}; set trust_remote_code if "
                "you trust the code"
            )
    own_code = names_code if trust_remote_code else []
    try:
        config = transformers.AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except OSError:
        raise
    except Exception as error:  # each config class has its own validation and exception type
        raise ValueError(f"config.json of {path} is not valid: {first_line(error)}") from error
    try:
        config = language_model(config, own_code=bool(own_code))
        _require_decoder(config)
        read_quantised(config)
        _choose_implementations(config)
    except ValueError:
        raise
    except Exception as error:  # a value of the wrong type that no earlier check has seen
        raise ValueError(f"config.json of {path} is not valid: {first_line(error)}") from error
    blocks = getattr(config, "num_hidden_layers", None)
    if local and isinstance(blocks, int):
        check_blocks(path, blocks)
    return config


def _choose_implementations(config: Any) -> None:
    """Resets the implementations that a config asks for: they may be code from the hub, or slow. With None,
    transformers chooses the fastest implementation that the model supports, and some of its versions (5.17) choose
    torch's attention for models with a soft cap on the attention's logits (Gemma 2), which leaves the cap out.
    """
    config.output_attentions = False  # must be set before the attention, because True would choose a slow one
    config.output_hidden_states = False
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    config._attn_implementation = "eager" if capped else None
    config._experts_implementation = None


def _require_decoder(config: Any) -> None:
    """ValueError for a model whose tokens see what follows them."""
    masked = [name for name in config.architectures or [] if "MaskedLM" in name]
    # "vision": the tokens of an image see each other, those of a text do not
    two_way = getattr(config, "use_bidirectional_attention", False) not in (None, False, "vision")
    if masked or two_way or not getattr(config, "is_causal", True):
        raise not_causal(config.model_type)


def plan_cut(config: Any, keep: int, *, trust_remote_code: bool = False) -> ModelPart:
    """Plans the model of `config` without its blocks `keep` and above, its final norm and its LM head. A norm that the
    model uses before its blocks, too, or without which it fails, stays.

    Raises ValueError if the model cannot be built, its list of blocks cannot be identified, its blocks pass on
    something else than one state a token, or its attention is not causal.
    """
    model, blocks = _without_weights(transformers.AutoModel, config, trust_remote_code)
    parent = blocks.rpartition(".")[0]
    seen = observe(model, blocks, _final_norms(model, blocks))
    require_one_state(config, seen)
    norms = [name for name in _final_norms(model, blocks) if name not in seen.norms]
    full_class = type(model)
    above = [*model.get_submodule(blocks)[keep:], *(model.get_submodule(f"{parent}.{n}".lstrip(".")) for n in norms)]
    not_built = {id(parameter) for module in above for parameter in module.parameters()}

    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        full_class.__init__(self, *args, **kwargs)
        del self.get_submodule(blocks)[keep:]
        for norm in norms:
            setattr(self.get_submodule(parent), norm, nn.Identity())
        # Zamba's blocks share weights: with those that are gone nothing can be shared
        there = self.state_dict().keys()
        shared = getattr(self, "all_tied_weights_keys", {})
        self.all_tied_weights_keys = {key: to for key, to in shared.items() if {key, to} <= there}

    # name and module stay the same, because transformers looks up its weight conversions by them
    members = {"__init__": build, "__module__": full_class.__module__}
    beyond = "".join(f"|{re.escape(f'{parent}.{norm}'.lstrip('.'))}" for norm in norms)
    prefix = re.escape(model.base_model_prefix)
    return ModelPart(
        config=config,
        model_class=type(full_class.__name__, (full_class,), members),
        blocks=blocks,
        keep=keep,
        not_needed=re.compile(
            rf"(?:(?:{prefix}\.)?(?:{re.escape(blocks)}\.(?P<block>\d+){beyond})|{'|'.join(HEADS)})\."
        ),
        parameters=sum(part.numel() for part in model.parameters() if id(part) not in not_built),
        renaming=Renaming(model),
        text=text_half(config),
        whole=model,
    )


def plan_full(config: Any, *, trust_remote_code: bool = False) -> ModelPart:
    """Plans the whole causal language model of `config`: all blocks, the final norm and the LM head, tied or not.

    Nothing is cut off, so every tensor of the checkpoint is needed. Raises ValueError like plan_cut.
    """
    model, blocks = _without_weights(transformers.AutoModelForCausalLM, config, trust_remote_code)
    return ModelPart(
        config=config,
        model_class=type(model),
        blocks=blocks,
        keep=config.num_hidden_layers,
        not_needed=_NOTHING,
        parameters=sum(part.numel() for part in model.parameters()),
        renaming=Renaming(model),
        text=text_half(config),
    )


def require_one_state(config: Any, seen: Observed) -> None:
    """ValueError if what a block passes on is not one state of the model's width for each token: which part of it a
    sample's vector should be is not known."""
    if seen.shape is not None and seen.shape != (1, TOKENS, config.hidden_size):
        raise several_states(config, seen.shape, TOKENS)


def _without_weights(auto_class: Any, config: Any, trust_remote_code: bool) -> tuple[Any, str]:
    """The model that `auto_class` builds from the config, on the meta device, and the path of its blocks."""
    try:
        with torch.device("meta"):
            model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ValueError(f"a {config.model_type} model cannot be built: {first_line(error)}") from error
    blocks = find_blocks(model, config.num_hidden_layers)
    modules = model.get_submodule(blocks).modules()
    if any(getattr(module, "is_causal", True) is False for module in modules):
        raise not_causal(config.model_type)
    return model, blocks


def find_blocks(model: nn.Module, count: int) -> str:
    """The path of the model's list of blocks: the outermost module list of length `count`; ValueError if unclear."""
    lists: list[str] = [
        name for name, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    # a block may hold a list of the same length, e.g. as many experts as there are blocks
    outermost = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists if other != name)]
    if len(outermost) != 1:
        raise ValueError(
            f"{type(model).__name__} has {len(outermost)} lists of {count} modules "
            f"({', '.join(outermost) or 'none'}); which are its blocks cannot be told"
        )
    return outermost[0]


def _final_norms(model: nn.Module, blocks: str) -> list[str]:
    """Names of the norms that are siblings of the list of blocks and come after it; an earlier norm may belong to the
    input.
    """
    parent, _, own = blocks.rpartition(".")
    names = [name for name, _ in model.get_submodule(parent).named_children()]
    return [name for name in names[names.index(own) + 1 :] if name in FINAL_NORMS]


def rope_boundaries(config: Any) -> tuple[int, ...]:
    """Lengths at which the longest row of a batch changes the rotary frequencies of all rows (LongRoPE: Phi-3 128k).

    Rows on both sides of a boundary must not share a batch, or a short row would get the frequencies of a long row.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    found = set()
    for rope in [parameters, *per_layer_type]:
        if rope.get("rope_type") == "longrope":
            original = rope.get("original_max_position_embeddings") or getattr(
                config, "original_max_position_embeddings", None
            )
            found.add(int(original or config.max_position_embeddings))
    return tuple(sorted(found))


def require_folder(path: str | os.PathLike[str]) -> bool:
    """True for a folder, False for a possible name on the hub; ValueError for a path that does not exist or is a
    file.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        return True
    if os.path.exists(text):
        raise ValueError(f"{text} is a file; a model folder is needed")
    if os.path.isabs(text) or text.startswith((".", "~")) or ("/" in text and text.count("/") != 1):
        raise ValueError(f"there is no model folder {text}")
    return False


def several_states(config: Any, shape: tuple[int, ...], tokens: int) -> ValueError:
    return ValueError(
        f"the blocks of {config.model_type} pass on {shape} for a row of {tokens} tokens, not one state of width "
        f"{config.hidden_size} a token (several residual streams, for example), and which of them would describe a "
        "sample is not known; take a model of another architecture"
    )


def not_causal(what: str) -> ValueError:
    return ValueError(
        f"{what} is not causal: its tokens see what follows them. A decoder-only language model is needed"
    )


def first_line(error: BaseException) -> str:
    """An error in one line, for a message: its type and its first line that is not empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
