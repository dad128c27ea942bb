"""The fingerprint of a job: every setting that changes its results, and only those, by names that people understand.

An output folder bears it, every receipt a digest of it; a run goes on only where they agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from tamis.operators.tokens import ChatTokenizer
from tamis.pipeline.files import SourceFile
from tamis.pipeline.job import Job
from tamis.pipeline.models import ModelSource, identity
from tamis.pipeline.sources import Shard, is_shipped
from tamis.pipeline.store import open_filesystem

FINGERPRINT_FORMAT = 1
"""Raised when the same settings begin to give other numbers."""


def fingerprint_of(
    job: Job,
    shards: Sequence[Shard],
    references: Sequence[Shard],
    model: ModelSource,
    tokenizer: ChatTokenizer,
    max_tokens: int,
) -> dict[str, Any]:
    """Every setting that changes results, and only those, by a name that a person understands."""
    keys: dict[str, Any] = {
        "format": FINGERPRINT_FORMAT,
        "input": _hash([[shard.id, shard.dialect] for shard in shards]),
        "model": identity(model.path) if model.revision == "local" else f"{job.model.name}@{model.revision}",
        "tokenizer and template": tokenizer.fingerprint,
        "model.dtype": job.model.dtype,
        "model.device": job.model.device,
        "model.token_budget": job.model.token_budget,
        "max_tokens": max_tokens,
        "overlong": job.overlong,
        "method": job.method,
    }
    for role in sorted({shard.role for shard in references}):
        files = {shard.file.url: shard.file for shard in references if shard.role == role}
        keys[f"references.{role}"] = _hash([_content(file, job.storage_options) for file in files.values()])
    for section in job.method:
        for key, value in getattr(job, section).model_dump().items():
            if not key.endswith("_references"):
                keys[f"{section}.{key}"] = value
    rule, amount = job.selection.rule
    keys[f"selection.{rule}"] = amount
    keys["selection.by"] = job.selected_by
    keys["selection.control"] = job.selection.control
    if job.selection.control is not None:
        keys["seed"] = job.seed
    return keys


def _content(file: SourceFile, options: Mapping[str, Any]) -> str:
    if is_shipped(file):
        return file.identity
    filesystem, path = open_filesystem(file.url, options)
    return hashlib.sha256(filesystem.cat_file(path)).hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
