"""The fingerprint of a job: every setting that changes its results, and no other, by names that people understand.

An output folder holds the fingerprint, and every receipt a digest of it; a run continues only where they agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tamis.operators.methods import BlockSearch
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import Shard, is_shipped
from tamis.pipeline.job.job_file import Job, LayersJob
from tamis.pipeline.job.methods import distributions, known, sections
from tamis.pipeline.job.sections import Section
from tamis.pipeline.models.fetch import identity_at
from tamis.pipeline.models.keys import vector_keys_of
from tamis.pipeline.planning.prompts import Prompts
from tamis.pipeline.storage.addresses import open_filesystem
from tamis.pipeline.storage.ranged import read_whole

FINGERPRINT_FORMAT, SEARCH_FORMAT, FISHER_FORMAT = 4, 2, 3
"""Format numbers for a run, the layer search and the Fisher ratios. Raise one when the same settings give other
numbers than before."""

NO_MATTER = frozenset(
    {
        "output",
        "storage_options",
        "max_quarantined",
        "workers",
        "readers",
        "cluster_patience",
        "worker_timeout",
        "keep_captures",
        "drift_limit",
        "lineage",
        "schedule",
        "selection.allow_majority",
    }
)
"""Settings and sections that change no result of a finished run, but for keep_captures where rows are drawn for a fit:
that is in the fingerprint by the rows. Every setting that is named neither here nor in
OTHERWISE is in the fingerprint, including settings that are added to the job file later."""

OTHERWISE = frozenset(
    {
        # the input counts by the shards that were found in it
        "input.path",
        "input.config",
        "input.split",
        "input.revision",
        "input.format",
        "input.dialect",
        "input.columns",
        "input.join",
        "shard_rows",
        # models/keys.py says which settings of the model count
        "model",
        # files count by their content; settings of the search for LARF's block count only where it is searched
        "larf.over_rejection_prompts",
        "larf.refusal_markers",
        # counts by its content
        "artifact",
        # change the form of this output and no number: no part of what an artifact must agree in
        "sample_id",
        "file_size",
        # these count by the values derived from them: the model's limit, the one rule that applies, and who decides
        "max_tokens",
        "selection.drop",
        "selection.drop_count",
        "selection.threshold",
        "selection.by",
        # count only where chance decides; of a sample, how many rows were drawn
        "seed",
        "contrast.sample",
        # count where there are further models: these by their content, blocks and limits
        "csa.models",
        "csa.normalise",
    }
)
"""Settings that are in the fingerprint in another form, and settings that matter only to some runs."""


def fingerprint_of(
    job: Job,
    shards: Sequence[Shard],
    model_keys: Mapping[str, Any],
    captured_keys: Mapping[str, Any],
    layer_keys: Mapping[str, Any],
) -> dict[str, Any]:
    """The fingerprint of a whole run: its settings and, if the job names no block for LARF, the settings that decide
    it."""
    keys: dict[str, Any] = {
        "format": FINGERPRINT_FORMAT,
        "input": _hash([[shard.id, shard.dialect] for shard in shards]),
        **model_keys,
        **captured_keys,
        "method": job.method,
    }
    if any("join" in shard.dialect for shard in shards):
        keys["input.join"] = job.join
    keys.update(settings_of(job))
    # Another version of an installed method may give other numbers.
    keys.update({f"{name} distribution": source for name, source in distributions(job.method).items()})
    keys.update(layer_keys)
    keys.update(form_keys_of(job))
    if job.masks_tokens:
        return keys
    return {**keys, **selection_keys_of(job)}


_EARLIER = {"sample_id": "none", "file_size": 0}
"""The form of the output that an earlier tamis wrote, whose runs go on with it: not in a fingerprint."""
FORM_KEYS = frozenset(_EARLIER)
"""Keys of a job, and of its fingerprint, that change the form of the output and no number."""


def form_keys_of(job: Job) -> dict[str, Any]:
    """The part of a fingerprint that says which columns the output has besides the corpus's own, and how large its
    files are."""
    found = {name: getattr(job, name) for name in sorted(FORM_KEYS)}
    return {name: value for name, value in found.items() if value != _EARLIER[name]}


def selection_keys_of(job: Job) -> dict[str, Any]:
    """The part of a fingerprint that says which samples fall."""
    rule, amount = job.selection.rule
    return {
        **{name: value for name, value in settings_of(job).items() if name.startswith("selection.")},
        f"selection.{rule}": amount,
        "selection.by": job.selected_by,
        **({} if job.selection.control is None else {"seed": job.seed}),
    }


def settings_of(job: LayersJob) -> dict[str, Any]:
    """Dotted name -> value of every setting that counts as it stands, except settings of the model (`model_keys_of`)
    and of methods that do not run."""
    idle = set(sections()) - {known()[name].kind.section_name() for name in job.method}
    left_out = NO_MATTER | OTHERWISE | idle | _reference_files(job)
    found: dict[str, Any] = {}
    for name in [name for name in type(job).model_fields if name not in left_out]:
        value = getattr(job, name)
        section = value.model_dump() if isinstance(value, Section) else None
        found |= {name: value} if section is None else {f"{name}.{key}": item for key, item in section.items()}
    return {name: value for name, value in found.items() if name not in left_out}


def _reference_files(job: LayersJob) -> set[str]:
    """The settings that name files whose content counts."""
    kinds = [known()[name].kind for name in job.method]
    return {f"{kind.section_name()}.{source}_references" for kind in kinds for source in kind.references}


def captured_keys_of(job: LayersJob, references: Sequence[Shard], max_tokens: int) -> dict[str, Any]:
    """The settings that captured vectors depend on, besides the model."""
    keys: dict[str, Any] = {
        **vector_keys_of(job.model),
        "max_tokens": max_tokens,
        "overlong": job.overlong,
    }
    for role in sorted({shard.role for shard in references}):
        files = {shard.file.url: shard.file for shard in references if shard.role == role}
        keys[f"references.{role}"] = reference_digest(files.values(), job.storage_options)
    if any("join" in shard.dialect for shard in references):
        keys["input.join"] = job.join
    return keys


def reference_digest(files: Iterable[SourceFile], options: Mapping[str, Any]) -> str:
    """Digest of the content of a reference set's files."""
    return _hash([_content(file, options) for file in files])


def given_keys_of(job: Job) -> dict[str, Any]:
    """The content of the reference models that the job names."""
    keys: dict[str, Any] = {}
    for method in job.method:
        for name, path in job.models_of(method).items():
            if content := identity_at(path, job.storage_options):
                keys[f"{known()[method].kind.section_name()}.{name}_model files"] = content
    return keys


def search_keys_of(wanted: BlockSearch, prompts: Prompts) -> dict[str, Any]:
    """The settings that the layer search depends on, besides the model."""
    return {
        "search format": SEARCH_FORMAT,
        f"{wanted.method}.over_rejection_prompts": prompts.digest,
        f"{wanted.method}.refusal_markers": list(wanted.markers),
    }


def _content(file: SourceFile, options: Mapping[str, Any]) -> str:
    if is_shipped(file):
        return file.identity
    filesystem, path = open_filesystem(file.url, options)
    return hashlib.sha256(read_whole(filesystem, path)).hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
