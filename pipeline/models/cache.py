"""What the plan found out about the model, kept in the output folder for the next command of the run.

It is little: what the model is, and its tokenizer. But to find it out, transformers and torch are imported, which takes
seconds of every command that goes on. It is kept for the very content of the model's files, for what the job says of
them and for the libraries that read them, and is worthless, not wrong, where one of them is another. Where it is used,
the command that began the run has checked that the model can do what the run asks, too.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tamis.operators.model.info import ModelInfo
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.models.render_process import BoundedRenderer
from tamis.pipeline.run.paths import PLANNED_MODEL
from tamis.pipeline.storage.store import Store

_LIBRARIES = ("tamis", "transformers", "tokenizers")


def load(store: Store, keys: Mapping[str, Any]) -> tuple[ModelInfo, ChatTokenizer] | None:
    """What an earlier command has kept under these keys; None if there is nothing, or nothing that may be used."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        tree = json.loads(store.read(PLANNED_MODEL))
        info, tokenizer = tree["info"], tree["tokenizer"]
        if tree["stamp"] == _stamp(keys, info, tokenizer):
            return ModelInfo(**info), ChatTokenizer.from_json(tokenizer, BoundedRenderer)
    return None


def keep(store: Store, keys: Mapping[str, Any], info: ModelInfo, tokenizer: ChatTokenizer) -> None:
    facts, text = asdict(info), tokenizer.to_json()
    tree = {"stamp": _stamp(keys, facts, text), "info": facts, "tokenizer": text}
    store.write(PLANNED_MODEL, json.dumps(tree).encode())


def _stamp(keys: Mapping[str, Any], info: Mapping[str, Any], tokenizer: str) -> dict[str, Any]:
    """What must agree, and the digest of what is kept."""
    return {
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **keys,
        "sha256": hashlib.sha256(json.dumps([info, tokenizer]).encode()).hexdigest(),
    }
