"""The names of a checkpoint's tensors, as transformers reads them.

Three things stand between the name in a file and the name in a model. Wrappers (torch.compile, DDP, FSDP) put their own
parts into it, which transformers would not recognise. transformers itself renames while it loads: Nemotron-H's
`backbone.` becomes `model.`, experts that are stored one by one are stacked. And in a multimodal checkpoint the
language model is one half, under a prefix.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

_WRAPPERS = re.compile(r"^module\.|(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OF_TEXT_AND_MORE = ("AutoModelForImageTextToText", "AutoModelForMultimodalLM", "AutoModelForCausalLM", "AutoModel")


def unwrapped(key: str) -> str:
    """The name without what torch.compile, DDP, FSDP and activation checkpointing add to it."""
    while (shorter := _WRAPPERS.sub("", key)) != key:
        key = shorter
    return key


class Renaming:
    """What transformers makes of names when it loads `model`."""

    def __init__(self, model: Any) -> None:
        """model: of transformers, with or without weights."""
        steps = get_model_conversion_mapping(model)
        self._renamings = [step for step in steps if isinstance(step, WeightRenaming)]
        self._converters = [step for step in steps if isinstance(step, WeightConverter)]
        self._prefix = model.base_model_prefix
        self._known = model.state_dict()

    def final(self, key: str, *, convert: bool = True) -> str:
        """The name in the model of the tensor `key` of a checkpoint; of several that it becomes a part of, the first.

        convert: False leaves out what makes new tensors of old ones, and so keeps the name of each old one.
        """
        converters = self._converters if convert else []
        renamed, _ = rename_source_key(key, self._renamings, converters, self._prefix, self._known)
        if renamed not in self._known and key in self._known:
            renamed, _ = rename_source_key(key, [], [], self._prefix, self._known)
        return str(renamed)


class TextHalf:
    """The language model in a multimodal checkpoint: which of its tensors it is, and what they are named in it."""

    def __init__(self, outer: Any, text: Any) -> None:
        """outer: the config of the checkpoint. text: the config of its language model. ValueError if transformers
        cannot build the whole, or if there is no such half."""
        whole = _build(outer)
        self._renaming = Renaming(whole)
        paths = [name for name, module in whole.named_modules() if getattr(module, "config", None) is text and name]
        # the outermost: the language model's own parts have the same config
        paths = [path for path in paths if not any(path.startswith(f"{other}.") for other in paths if other != path)]
        if len(paths) != 1:
            raise ValueError(f"where the language model of {outer.model_type} stands in it cannot be told")
        self._path = f"{paths[0]}."
        head = whole.get_output_embeddings()
        self._heads = tuple(f"{name}." for name, module in whole.named_modules() if module is head and head is not None)

    def name(self, key: str) -> str | None:
        """The name of tensor `key` in a checkpoint of the language model alone; None if it belongs to another half."""
        found = self._renaming.final(key, convert=False)
        if found.startswith(self._path):
            return found.removeprefix(self._path)
        for head in self._heads:
            if found.startswith(head):
                return f"lm_head.{found.removeprefix(head)}"
        return None


def _build(config: Any) -> nn.Module:
    """The model of a multimodal config, on the meta device."""
    failures = []
    for name in _OF_TEXT_AND_MORE:
        try:
            with torch.device("meta"):
                model: nn.Module = getattr(transformers, name).from_config(config)
            return model
        except Exception as error:  # each auto class has its own list, and each model its own needs
            failures.append(" ".join(str(error).split()))
    told = next((said for said in failures if "Unrecognized configuration" not in said), failures[0])
    raise ValueError(f"a {config.model_type} model cannot be built, and so its language model not found: {told:.200}")
