"""What the plan found out about the model, kept in the output folder for the next command of the run.

It is little: what the model is, and its tokenizer. But to find it out, transformers and torch are imported, which takes
seconds of every command that goes on. It is kept for the very content of the model's files, for the template and for
the libraries that made it, and is worthless, not wrong, where one of them is another.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from tamis.operators.model_info import ModelInfo
from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.receipts import WORK
from tamis.pipeline.store import Store

KEPT = f"{WORK}/plan/model.json"
_LIBRARIES = ("tamis", "transformers", "tokenizers")


def load(store: Store, content: str, template: str | None) -> tuple[ModelInfo, ChatTokenizer] | None:
    """What an earlier command has kept of this model; None if there is nothing, or nothing that may be used.

    content: of the model's files, as in a fingerprint. template: the job's own.
    """
    with suppress(OSError, ValueError, KeyError, TypeError):
        tree = json.loads(store.read(KEPT))
        info, tokenizer = tree["info"], tree["tokenizer"]
        if tree["stamp"] == _stamp(content, template, info, tokenizer):
            return ModelInfo(**info), ChatTokenizer.from_json(tokenizer)
    return None


def keep(store: Store, content: str, template: str | None, info: ModelInfo, tokenizer: ChatTokenizer) -> None:
    """Keep it, unless it is there already."""
    if load(store, content, template) is not None:
        return
    facts, text = asdict(info), tokenizer.to_json()
    tree = {"stamp": _stamp(content, template, facts, text), "info": facts, "tokenizer": text}
    store.write(KEPT, json.dumps(tree).encode())


def _stamp(content: str, template: str | None, info: dict[str, Any], tokenizer: str) -> dict[str, Any]:
    """What must agree, and the digest of what is kept."""
    kept = json.dumps([template, info, tokenizer])
    return {
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "model": content,
        "sha256": hashlib.sha256(kept.encode()).hexdigest(),
    }
