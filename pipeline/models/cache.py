"""The plan's facts about the model, cached in the output folder for the next command of the run.

They are few: a description of the model, and its tokenizer. But to get them, transformers and torch must be imported,
which takes seconds in every resumed command. The cache is valid for exactly these model files, these job settings and
these libraries; if one of them differs, it is not used. If it is used, the command that began the run has also checked
that the model can do what the run needs.
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
    """The facts that an earlier command has kept under these keys; None if there are none, or none that are valid."""
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
    """The values that must agree, with a digest of the cached facts."""
    return {
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **keys,
        "sha256": hashlib.sha256(json.dumps([info, tokenizer]).encode()).hexdigest(),
    }
