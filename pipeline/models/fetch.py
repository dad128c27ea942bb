"""The model's folder on this machine: a local folder as given, or fetched once per node from the hub or a store."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from tamis.pipeline.errors import ConfigError, error_text
from tamis.pipeline.models.folders import copy_here
from tamis.pipeline.storage.addresses import open_filesystem, refuse_credentials
from tamis.pipeline.storage.ranged import read_whole

_CONFIG_FILES = ["*.json", "*.jinja", "*.model", "*.txt"]
_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx"}
_WHOLE = 1 << 28
_PIECE, _PIECES = 1 << 20, 64


@dataclass(frozen=True)
class ModelSource:
    """path: folder on this machine. revision: commit on the hub, digest of a folder in an object store, or "local"."""

    path: str
    revision: str


def fetch(
    name: str,
    revision: str | None,
    *,
    weights: bool,
    pickles: bool = False,
    remote_code: bool = False,
    options: Mapping[str, Any] | None = None,
) -> ModelSource:
    """The model `name` as a local folder. weights: False fetches only configuration and tokenizer.

    name: a folder on this machine or in an object store (options: its storage_options), or a name on the hub.
    On each node one worker downloads; the others wait, and then read its files. Raises ConfigError.
    """
    refuse_credentials(name)
    name = name.removeprefix("file://")
    if os.path.isdir(name):
        return ModelSource(os.path.abspath(name), "local")
    patterns = [*_CONFIG_FILES]
    patterns += ["*.safetensors"] if weights else []
    patterns += ["*.bin"] if weights and pickles else []
    patterns += ["*.py"] if remote_code else []
    if "://" in name and not name.startswith("hf://"):
        return ModelSource(*copy_here(name, options or {}, patterns, revision))
    name = name.removeprefix("hf://")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ConfigError(f"model.name: {name} is not a folder on this machine, nor a name on the Hugging Face hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    # Other users of the node may not be able to open our lock in the common folder.
    user = os.getuid() if hasattr(os, "getuid") else "user"
    lock = Path(tempfile.gettempdir()) / f"tamis-fetch-{user}-{hashlib.sha256(name.encode()).hexdigest()[:16]}.lock"
    try:
        with FileLock(lock):
            path = snapshot_download(name, revision=revision, allow_patterns=patterns)
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"model.name: {name}{f' at {revision}' if revision else ''} is not a folder here and cannot be fetched "
            f"from the Hugging Face hub ({type(error).__name__}: {error_text(error)}); give the path of a "
            "folder, check the name, or set HF_TOKEN for a private model"
        ) from None
    return ModelSource(path, Path(path).name)


def identity(path: str) -> str:
    """sha256 over names, sizes and contents of the model's configuration and weights.

    Weight files over 256 MiB are sampled at 64 evenly spaced places instead of read as a whole: training changes nearly
    every tensor, and reading 140 GB to detect a change would cost more than the mistake.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(path).iterdir()):
        if file.suffix not in {".json", ".safetensors", ".bin", ".jinja", ".model", ".py"} or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            for piece in range(_PIECES):
                stream.seek(piece * (size - _PIECE) // (_PIECES - 1))
                digest.update(stream.read(_PIECE))
    return digest.hexdigest()


def digest_beside_weights(path: str) -> str:
    """sha256 over names and contents of every file in the model's folder and its subfolders, except weights and hidden
    files. `identity` leaves some of them out: a tokenizer's merges.txt, and templates in a subfolder.
    """
    digest = hashlib.sha256()
    for file in sorted(Path(path).rglob("*")):
        name = file.relative_to(path)
        hidden = any(part.startswith(".") for part in name.parts)
        if hidden or file.suffix in _WEIGHTS or not file.is_file() or file.stat().st_size > _WHOLE:
            continue
        data = file.read_bytes()
        digest.update(f"{name}:{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def identity_at(name: str, options: Mapping[str, Any]) -> str:
    """`identity` of a local folder, the revision of a folder in an object store; empty for a name on the hub."""
    if os.path.isdir(name):
        return identity(name)
    return copy_here(name, options, ())[1] if "://" in name else ""


def chat_template(value: str | None, options: Mapping[str, Any] | None = None) -> str | None:
    """model.template as jinja text: the file's content if it names a file, else the value itself."""
    if value is None or "{" in value:
        return value
    try:
        filesystem, path = open_filesystem(value, options or {})
        return read_whole(filesystem, path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"model.template: {value} is neither a jinja template nor a readable file ({error_text(error)})"
        ) from None
