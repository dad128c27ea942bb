"""LoRA adapters on one base model: loaded once, switched per pass, never merged into the base's weights.

An adapter is a folder with adapter_config.json and adapter_model.safetensors, as written by peft. Pickles are not
loaded. An adapter is refused if it would change the base for the other adapters, or if it is not plain LoRA (DoRA and
rank-stabilised LoRA are accepted): a wrong loss would look like a correct one.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import safetensors
import torch
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import nn

from tamis.operators.forward.low_rank import fuse_low_rank
from tamis.operators.model.architecture import first_line

CONFIG_FILE, WEIGHTS_FILE, PICKLE_FILE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

# fields that say how the adapter's weights are applied; any other field must be at its default or have no effect here
_APPLIED = frozenset(
    {
        "alpha_pattern",
        "exclude_modules",
        "fan_in_fan_out",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "r",
        "rank_pattern",
        "target_modules",
        "use_dora",
        "use_rslora",
    }
)
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "eva_config",
        "inference_mode",
        "init_lora_weights",  # checked on its own
        "lora_dropout",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
    }
)
# these leave the base's own weights unchanged; other methods (PiSSA, OLoRA, LoftQ, ...) subtract a part from them
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")

Folders = Mapping[str, str | os.PathLike[str]]


class Adapters:
    """The LoRA adapters in `folders` on `model`; one of them is active at a time.

    model: a transformers ...ForCausalLM in evaluation mode; its modules are wrapped in place and its weights are not
    changed. The adapters get the dtype and the device of the modules that they wrap. Raises ValueError, naming the
    adapter, if an adapter lacks a file, is not a LoRA adapter, or does not fit the model.
    """

    def __init__(self, model: nn.Module, folders: Folders) -> None:
        self.names: tuple[str, ...] = tuple(folders)
        self._keys = {name: f"adapter_{number}" for number, name in enumerate(self.names)}
        wrapper: Any = None
        for name, folder in folders.items():
            try:
                config = _read_config(Path(folder))
                weights = _read_weights(Path(folder))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # peft's advice is for training; what matters here is checked
                    wrapper = _attach(model if wrapper is None else wrapper, config, self._keys[name])
                    _fill(wrapper, weights, self._keys[name])
            except ValueError as error:
                raise ValueError(f"adapter {name!r} in {os.fspath(folder)}: {error}") from error
        self._wrapper = wrapper
        fuse_low_rank(model)
        model.eval()
        self.use(self.names[0])

    def use(self, name: str) -> None:
        """Makes `name` the only active adapter for the model's next passes."""
        self._wrapper.set_adapter(self._keys[name], inference_mode=True)


def _read_config(folder: Path) -> peft.LoraConfig:
    """The LoRA settings of an adapter; ValueError for settings that are not supported."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise ValueError(f"there is no {CONFIG_FILE}" if folder.is_dir() else "there is no such folder")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{CONFIG_FILE} is not valid JSON: {first_line(error)}") from error
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        kind = settings.get("peft_type") if isinstance(settings, dict) else None
        raise ValueError(f"{CONFIG_FILE} has peft_type={kind!r}; a LORA adapter is needed")
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ValueError(
            f"{CONFIG_FILE} has init_lora_weights={start!r}, which changes the base model; "
            "convert the adapter to plain LoRA (peft: save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if "r" not in settings or "lora_alpha" not in settings:
        raise ValueError(f"{CONFIG_FILE} lacks r or lora_alpha, without which the adapter's strength is not known")
    plain = peft.LoraConfig()
    for key, value in settings.items():
        if key in _APPLIED | _WITHOUT_EFFECT or not value or value == getattr(plain, key, None):
            continue
        raise ValueError(f"{CONFIG_FILE} sets {key}, which is not supported; train a plain LoRA adapter")
    try:
        return peft.LoraConfig(
            **{key: value for key, value in settings.items() if key in _APPLIED}, inference_mode=True
        )
    except Exception as error:  # each setting has its own validation and exception type
        raise ValueError(f"{CONFIG_FILE} is not valid: {first_line(error)}") from error


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickled = f"; {PICKLE_FILE} is pickled and not loaded, save the adapter as safetensors"
        raise ValueError(f"there is no {WEIGHTS_FILE}{pickled if (folder / PICKLE_FILE).is_file() else ''}")
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{WEIGHTS_FILE} is damaged or incomplete: {first_line(error)}") from error
    return weights


def _attach(model: Any, config: peft.LoraConfig, key: str) -> Any:
    """Adds empty adapter modules (on the meta device) to the model; returns the peft wrapper around it."""
    options = {"low_cpu_mem_usage": True, "autocast_adapter_dtype": False}
    try:
        if isinstance(model, peft.PeftModel):
            model.add_adapter(key, config, **options)
            return model
        return peft.PeftModel(model, config, key, **options)
    except Exception as error:
        raise ValueError(f"it does not fit this model: {first_line(error)}") from error


def _fill(wrapper: Any, weights: dict[str, torch.Tensor], key: str) -> None:
    """Loads the weights of the adapter `key`: exactly the weights that it has modules for."""
    empty = peft.get_peft_model_state_dict(wrapper, adapter_name=key, save_embedding_layers=False)
    own = {name: tensor for name, tensor in weights.items() if name in empty}
    _refuse_changed_base(wrapper, {name: tensor for name, tensor in weights.items() if name not in empty})
    lacking = [name for name in empty if name not in own]
    misshapen = [
        f"{name} {tuple(tensor.shape)} for {tuple(empty[name].shape)}"
        for name, tensor in own.items()
        if tensor.shape != empty[name].shape
    ]
    for problem, names in (("lacks", lacking), ("has another shape for", misshapen)):
        if names:
            raise ValueError(f"it {problem} {_some(names)}; it was made for another base model or vocabulary")
    # peft casts and moves LoRA weights to their module's dtype and device, but not whole modules (modules_to_save)
    own = {name: tensor.to(empty[name].dtype) for name, tensor in own.items()}
    peft.set_peft_model_state_dict(wrapper, own, adapter_name=key, low_cpu_mem_usage=True)
    for module in wrapper.modules():
        if isinstance(module, ModulesToSaveWrapper) and key in module.modules_to_save:
            module.modules_to_save[key].to(next(module.original_module.parameters()).device)


def _refuse_changed_base(wrapper: Any, weights: dict[str, torch.Tensor]) -> None:
    """Refuses extra weights. peft saves the base's embeddings with some adapters: accepted if equal to this base's."""
    if not weights:
        return
    base = wrapper.state_dict()
    strange = [name for name in weights if name not in base]
    if strange:
        raise ValueError(
            f"it has weights for {_some(strange)}, which this model lacks; it was made for another base model"
        )
    for name, tensor in weights.items():
        own = base[name]
        if tensor.shape != own.shape or not torch.equal(tensor.to(own), own):
            raise ValueError(f"it brings its own {name}, which would replace the base model's; use modules_to_save")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
