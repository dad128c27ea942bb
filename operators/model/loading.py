"""Loads the blocks of a model that are needed, and nothing else.

Tensors of blocks above the cut, of the final norm and of the LM head are never read, and a weight file that
contains nothing else is neither opened nor downloaded. If the checkpoint lacks a weight that the cut model needs, or
has it in another shape, that is an error: transformers would fill it with random numbers and continue.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import safetensors
import torch
from torch import nn
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from tamis.operators.model.allocator import keep_freed_memory
from tamis.operators.model.architecture import ModelPart, first_line, not_causal, require_folder
from tamis.operators.model.kinds import require_exact_scales
from tamis.operators.model.spreading import place

SAFE_FILES = ("model.safetensors", "model.safetensors.index.json")
PICKLE_FILES = ("pytorch_model.bin", "pytorch_model.bin.index.json")

_OTHER_DTYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U8": torch.uint8, "I8": torch.int8}

# buffers that older checkpoints contain and that models now compute themselves
_OLD_BUFFERS = re.compile(r"(\b(attn|attention)\.(masked_)?bias|\binv_freq|\bposition_ids)$")


def find_weights(
    path: str | os.PathLike[str], cut: ModelPart, *, revision: str | None, allow_pickle_weights: bool
) -> list[str]:
    """The files that contain the weights of `cut`, downloaded first if `path` is a name on the hub.

    Raises ValueError if there are no such files, if a needed shard is missing, or if they are pickles and pickles are
    not allowed; OSError if the hub cannot be reached.
    """

    def fetch(name: str) -> str | None:
        found: str | None = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        return found

    require_folder(path)
    for single, index in (SAFE_FILES, PICKLE_FILES) if allow_pickle_weights else (SAFE_FILES,):
        whole = fetch(single)
        if whole is not None:
            return [whole]
        table = fetch(index)
        if table is not None:
            names = _needed_shards(path, table, index, cut)
            shards = [(name, fetch(name)) for name in names]
            missing = [name for name, shard in shards if shard is None]
            if missing:
                raise ValueError(
                    f"{path} lacks {', '.join(missing)}, {len(missing)} of the {len(names)} files "
                    f"that blocks 0 to {cut.keep - 1} need"
                )
            return [shard for _, shard in shards if shard is not None]
    # checked only in folders: on the hub, finding a file means downloading it
    has_pickle = any(os.path.isfile(os.path.join(path, name)) for name in PICKLE_FILES)
    raise ValueError(
        f"{path} has no {' or '.join(SAFE_FILES)}"
        + ("; it has pickled weights, which allow_pickle_weights would load" if has_pickle else "")
    )


def _needed_shards(path: str | os.PathLike[str], table: str, index: str, cut: ModelPart) -> list[str]:
    """Names of the files that the index `table` lists for the tensors of `cut`."""
    try:
        with open(table, encoding="utf-8") as file:
            weight_map = dict(json.load(file)["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{index} of {path} is not valid: {first_line(error)}") from error
    names = sorted({str(name) for key, name in weight_map.items() if cut.needs(str(key))})
    suffix = ".safetensors" if index in SAFE_FILES else ".bin"
    for name in names:
        if os.path.basename(name) != name or not name.endswith(suffix):
            raise ValueError(f"{index} of {path} names {name!r}, which is not a {suffix} file beside it")
    if not names:
        raise ValueError(f"{index} of {path} names no weights of blocks 0 to {cut.keep - 1}")
    return names


@contextmanager
def open_weights(files: list[str], cut: ModelPart) -> Iterator[dict[str, Any]]:
    """The tensors of `cut`, by the names under which transformers takes them, not yet read: slices of safetensors
    files, or memory-mapped from pickled files. ValueError if two tensors have one name."""
    with ExitStack() as stack:
        weights: dict[str, Any] = {}
        sources: dict[str, str] = {}

        def add(keys: Iterable[str], get: Callable[[str], Any]) -> None:
            for key in keys:
                name = cut.name(key)
                if name is None:
                    continue
                if sources.setdefault(name, key) != key:
                    raise ValueError(f"the weight files have two tensors for {name}: {sources[name]} and {key}")
                weights[name] = get(key)

        for file in files:
            try:
                if file.endswith(".safetensors"):
                    handle = stack.enter_context(safetensors.safe_open(file, framework="pt"))
                    add(handle.offset_keys(), handle.get_slice)
                else:
                    state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                    add(state, state.__getitem__)
            except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
                name = os.path.basename(file)
                raise ValueError(f"weight file {name} is damaged or incomplete: {first_line(error)}") from error
        yield weights


def parameters_in(weights: Mapping[str, Any]) -> int:
    """The number of parameters in the tensors from `open_weights`; no tensor is read."""
    return sum(math.prod(_shape(weight)) for weight in weights.values())


def _shape(weight: Any) -> Sequence[int]:
    return tuple(weight.shape if isinstance(weight, torch.Tensor) else weight.get_shape())


def _dtype(weight: Any) -> torch.dtype:
    """float32 but for quantised weights, which are converted by what they are."""
    if isinstance(weight, torch.Tensor):
        return weight.dtype
    return _OTHER_DTYPES.get(weight.get_dtype(), torch.float32)


def require_sizes(cut: ModelPart, weights: Mapping[str, Any]) -> None:
    """ValueError if the config describes a model more than twice as large as its weights: otherwise the missing
    weights would be allocated before they are found to be missing.
    """
    held = parameters_in(weights)
    if cut.parameters > 2 * held:
        raise ValueError(
            f"config.json describes {cut.parameters:,} parameters, and the weight files hold {held:,} of them; they do "
            "not belong together"
        )


def check_cut(cut: ModelPart, files: list[str]) -> int:
    """Raises as load_cut would for what the names and shapes of the weights show; no weight is read. Returns the number
    of parameters that would be loaded."""
    with open_weights(files, cut) as weights:
        require_sizes(cut, weights)
        packed = getattr(cut.config, "quantization_config", None) is not None
        count = cut.parameters if packed else parameters_in(weights)
        # transformers goes through the same steps, with tensors that have a shape and no content
        empty = {name: torch.empty(_shape(item), dtype=_dtype(item), device="meta") for name, item in weights.items()}
        _filled(cut, empty, torch.float32, device_map={"": "meta"})
    return count


def load_cut(cut: ModelPart, files: list[str], *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Builds the model of `cut` and fills it from `files`, in `dtype` on `device`, in evaluation mode.

    On "cuda" without a number, a model too large for one GPU is spread over all GPUs (spreading.place). Raises
    ValueError, naming the weights (the first five of many), if weights are missing, have another shape, or are left
    over inside a block that was kept; and if the model turns out not to run or not to be causal.
    """
    with open_weights(files, cut) as weights:
        require_sizes(cut, weights)
        model = _filled(cut, weights, dtype)
    if device.type == "cpu":
        keep_freed_memory()
    module = place(model, device)
    require_causal(module, cut.config)
    return module


def _filled(cut: ModelPart, weights: dict[str, Any], dtype: torch.dtype, **options: Any) -> nn.Module:
    """The model of `cut` with these weights; ValueError if they are not exactly those that it has."""
    require_exact_scales(cut.config, {name: _shape(item) for name, item in weights.items()})
    with _quiet_transformers():
        try:
            model, report = cut.model_class.from_pretrained(
                None,
                config=cut.config,
                state_dict=weights,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # reported below, with the shapes
                output_loading_info=True,
                **options,
            )
        except Exception as error:
            if is_out_of_memory(error):
                raise
            kind = cut.config.model_type
            raise ValueError(f"the weights cannot be put into a {kind} model: {first_line(error)}") from error
    _require_whole(report)
    filled: nn.Module = model
    if getattr(cut.config, "quantization_config", None) is not None:
        # older versions of transformers give quantised weights back in bfloat16 whatever is asked for
        for name, parameter in filled.named_parameters():
            if parameter.dtype.itemsize == 1:
                raise ValueError(f"the checkpoint lacks the scales of its quantised {name}")
            if parameter.dtype.is_floating_point and parameter.dtype.itemsize < dtype.itemsize:
                parameter.data = parameter.data.to(dtype)
    return filled


def stop_tokens(path: str | os.PathLike[str], config: Any, *, revision: str | None) -> frozenset[int]:
    """The tokens that end an answer: eos_token_id of generation_config.json or, if it has none, of the config.

    Raises ValueError if the file cannot be read, OSError if the hub cannot be reached.
    """
    name = "generation_config.json"
    found = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    named = None
    if found is not None:
        try:
            with open(found, encoding="utf-8") as file:
                named = json.load(file).get("eos_token_id")
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{name} of {path} is not valid: {first_line(error)}") from error
    if named is None:
        named = getattr(config, "eos_token_id", None)
    tokens = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(token, int) for token in tokens):
        raise ValueError(f"eos_token_id of {path} is {named!r}; a token id or a list of them is needed")
    return frozenset(tokens)


def _require_whole(report: dict[str, Any]) -> None:
    mismatched = [f"{key} {tuple(got)} for {tuple(want)}" for key, got, want in report["mismatched_keys"]]
    leftover = [key for key in report["unexpected_keys"] if re.search(r"\.\d+\.", key)]
    leftover = [key for key in leftover if not _OLD_BUFFERS.search(key)]
    for problem, keys in (
        ("lacks", sorted(report["missing_keys"])),
        ("has another shape for", sorted(mismatched)),
        ("has weights that the model does not know:", sorted(leftover)),
    ):
        if keys:
            more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
            raise ValueError(f"the checkpoint {problem} {', '.join(keys[:5])}{more}")


def require_causal(model: nn.Module, config: Any) -> None:
    """Runs two short rows that begin the same and end differently; ValueError if the states of their beginnings differ.

    Rows are batched without an attention mask because padding comes after the real tokens and they cannot
    see it. This tests exactly that.
    """
    shared, length = 4, 8
    if config.vocab_size < 2:
        return
    parameter = next(model.parameters())
    ids = torch.arange(length, device=parameter.device).repeat(2, 1)
    ids[1, shared:] += 1
    try:
        with torch.inference_mode():
            output = model(input_ids=ids % config.vocab_size, use_cache=False)[0]
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        raise ValueError(
            f"this {config.model_type} model cannot be run on a few tokens of text: {first_line(error)}"
        ) from error
    states = output[:, :shared].float()
    difference = (states[0] - states[1]).norm()
    # NaN compares false: weights that produce NaN are reported row by row, not here
    if difference > states[0].norm() * torch.finfo(parameter.dtype).eps ** 0.5:
        raise not_causal(config.model_type)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hides the progress bar and the report while weights load: what matters in the report is raised as an error."""

    def silent(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return factory(*args, **{**kwargs, "disable": True})

    logger = transformers_logging.get_logger("transformers")
    level = logger.level
    hook = transformers_logging.set_tqdm_hook(silent)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers_logging.set_tqdm_hook(hook)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "not enough memory", "cublas_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)
