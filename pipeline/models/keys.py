"""The model's part of a fingerprint."""

from __future__ import annotations

from typing import Any

from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.job.sections import ModelSpec
from tamis.pipeline.models.fetch import ModelSource, identity

NO_MATTER = frozenset({"trust_remote_code", "allow_pickle_weights", "gpus_per_worker"})
"""Settings of the model that change no result. All settings that are named neither here nor below count, also new
ones."""

OTHERWISE = frozenset({"name", "revision", "template"})
"""Settings that count by the content that they name."""

OF_VECTORS = ("token_budget", "attention", "compile", "exact")
"""Settings that captured vectors depend on, but the answers of the layer search do not."""


def content_of(spec: ModelSpec, model: ModelSource) -> str:
    """Digest of the model's files. Reads the weights of a local model."""
    return identity(model.path) if model.revision == "local" else f"{spec.name}@{model.revision}"


def model_keys_of(spec: ModelSpec, content: str, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """The settings that every forward pass depends on."""
    return {"model": content, "tokenizer and template": tokenizer.fingerprint, **_settings(spec, vectors=False)}


def vector_keys_of(spec: ModelSpec) -> dict[str, Any]:
    """The further settings that captured vectors depend on."""
    return _settings(spec, vectors=True)


def _settings(spec: ModelSpec, *, vectors: bool) -> dict[str, Any]:
    left_out = NO_MATTER | OTHERWISE
    settings = {name: value for name, value in spec.model_dump().items() if name not in left_out}
    return {f"model.{name}": value for name, value in settings.items() if (name in OF_VECTORS) == vectors}
