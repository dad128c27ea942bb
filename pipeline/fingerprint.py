"""The fingerprint of a job: every setting that changes its results, and only those, by names that people understand.

An output folder bears it, every receipt a digest of it; a run goes on only where they agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.addresses import open_filesystem
from tamis.pipeline.files import SourceFile
from tamis.pipeline.job import Job, LayersJob
from tamis.pipeline.models import ModelSource, identity, identity_at
from tamis.pipeline.prompts import Prompts
from tamis.pipeline.ranged import read_whole
from tamis.pipeline.settings import TOKEN_METHODS, ModelSpec
from tamis.pipeline.sources import Shard, is_shipped

FINGERPRINT_FORMAT, SEARCH_FORMAT, FISHER_FORMAT = 3, 2, 3
"""Of a run, of the layer search and of the Fisher ratios: raised when the same settings begin to give other numbers."""

_ELSEWHERE = ("_references", "_prompts", "refusal_markers")
"""How settings end that are not in the fingerprint as they stand: files count by their content, and markers only where
the block is searched."""


def fingerprint_of(
    job: Job,
    shards: Sequence[Shard],
    model_keys: Mapping[str, Any],
    captured_keys: Mapping[str, Any],
    layer_keys: Mapping[str, Any],
) -> dict[str, Any]:
    """Of a whole run: its settings, and those from which LARF's block follows if the job names none."""
    keys: dict[str, Any] = {
        "format": FINGERPRINT_FORMAT,
        "input": _hash([[shard.id, shard.dialect] for shard in shards]),
        **model_keys,
        **captured_keys,
        "method": job.method,
    }
    if any("join" in shard.dialect for shard in shards):
        keys["input.join"] = job.join
    for section in job.method:
        name = "toss" if section in TOKEN_METHODS else section
        for key, value in getattr(job, name).model_dump().items():
            if not key.endswith(_ELSEWHERE):
                keys[f"{name}.{key}"] = value
    keys.update(layer_keys)
    if job.masks_tokens:
        return keys
    rule, amount = job.selection.rule
    keys[f"selection.{rule}"] = amount
    keys["selection.by"] = job.selected_by
    keys["selection.control"] = job.selection.control
    if job.selection.control is not None:
        keys["seed"] = job.seed
    return keys


def content_of(spec: ModelSpec, model: ModelSource) -> str:
    """Of the model's files. Reads the weights of a local model."""
    return identity(model.path) if model.revision == "local" else f"{spec.name}@{model.revision}"


def model_keys_of(spec: ModelSpec, content: str, tokenizer: ChatTokenizer) -> dict[str, Any]:
    """What every forward pass depends on."""
    return {
        "model": content,
        "tokenizer and template": tokenizer.fingerprint,
        "model.dtype": spec.dtype,
        "model.device": spec.device,
    }


def captured_keys_of(job: LayersJob, references: Sequence[Shard], max_tokens: int) -> dict[str, Any]:
    """What captured vectors depend on beside the model."""
    keys: dict[str, Any] = {
        "model.token_budget": job.model.token_budget,
        "model.attention": job.model.attention,
        "model.compile": job.model.compile,
        "model.exact": job.model.exact,
        "max_tokens": max_tokens,
        "overlong": job.overlong,
    }
    for role in sorted({shard.role for shard in references}):
        files = {shard.file.url: shard.file for shard in references if shard.role == role}
        keys[f"references.{role}"] = _hash([_content(file, job.storage_options) for file in files.values()])
    if any("join" in shard.dialect for shard in references):
        keys["input.join"] = job.join
    return keys


def given_keys_of(job: Job) -> dict[str, Any]:
    """The content of TOSS's reference models where the job names some."""
    named = {name: getattr(job.toss, name) for name in ("harmful_model", "utility_model")} if job.masks_tokens else {}
    found = {name: identity_at(path, job.storage_options) for name, path in named.items() if path}
    return {f"toss.{name} files": content for name, content in found.items() if content}


def search_keys_of(job: LayersJob, prompts: Prompts) -> dict[str, Any]:
    """What the layer search depends on beside the model."""
    return {
        "search format": SEARCH_FORMAT,
        "larf.over_rejection_prompts": prompts.digest,
        "larf.refusal_markers": job.larf.refusal_markers,
    }


def _content(file: SourceFile, options: Mapping[str, Any]) -> str:
    if is_shipped(file):
        return file.identity
    filesystem, path = open_filesystem(file.url, options)
    return hashlib.sha256(read_whole(filesystem, path)).hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
