"""The manifest of a selection that was made again: what the finished run says of rows, model and methods, and what
follows from the new cut.

Only what is named here is taken over, so nothing that a run says of its own cut is said of another one.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tamis.operators.methods import Method
from tamis.pipeline.emit.publish import ROUGH, cut_warnings, draw, finish, selection_facts, versions
from tamis.pipeline.emit.samples import SampleSpec
from tamis.pipeline.emit.shard import empty_dropped
from tamis.pipeline.emit.totals import EmitTotals
from tamis.pipeline.errors import InternalError
from tamis.pipeline.fit.scores import Selection
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.labels.certified import Certificate
from tamis.pipeline.report.drift import warnings as drift_warnings
from tamis.pipeline.report.verdict import verdict
from tamis.pipeline.run.incomplete import warning
from tamis.pipeline.run.parent import Parent
from tamis.pipeline.storage.store import Store

_TAKEN = ("title", "input", "model", "quarantine_codes", "unscored", "methods", "layers")
"""Keys of a summary that do not depend on what falls."""


def publish_again(
    store: Store,
    parent: Parent,
    job: Job,
    fingerprint: Mapping[str, Any],
    methods: Mapping[str, Method],
    shards: list[Shard],
    selection: Selection,
    spec: SampleSpec,
    emitted: EmitTotals,
    files: list[dict[str, Any]],
    timings: Mapping[str, Mapping[str, float]],
    notes: list[str],
    groups: list[dict[str, Any]],
    trust: Mapping[str, Any],
    certificate: Certificate | None = None,
) -> dict[str, Any]:
    """Write the remaining files of a new selection and return its manifest. InternalError if a row is missing anywhere.

    files: entries of what was written beside the emitted tables. notes: warnings besides those of the run and the cut.
    groups: of rows that have cuts of their own. trust: the figures that test the filter; the verdict is added here.
    certificate: where the threshold comes from.
    """
    failed = list(emitted.failed)
    if not failed and emitted.counts["dropped"] != selection.dropped:
        raise InternalError(
            f"{emitted.counts['dropped']} rows were dropped where the cut says {selection.dropped}; please report this"
        )
    theirs = parent.manifest["counts"]
    counts = {name: emitted.counts[name] for name in ("kept", "dropped", "quarantined")}
    if failed:
        counts["failed"] = sum(item.rows for item in failed)
    if sum(counts.values()) != theirs["rows_in"]:
        raise InternalError(f"rows were lost or doubled: {counts}; nothing was published, please report this")
    said = [
        *warning(failed),
        *notes,
        *(certificate.warnings if certificate is not None else ()),
        *_of_the_rows(parent, methods),
        *cut_warnings(methods, parent.frozen.artifacts, job.selected_by, selection.dropped, spec.scored),
    ]
    summary = {
        **{key: parent.manifest[key] for key in _TAKEN if key in parent.manifest},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tamis_version": importlib.metadata.version("tamis"),
        "job": job.model_dump(mode="json"),
        "fingerprint": dict(fingerprint),
        "parent": parent.facts(),
        "versions": versions(),
        "counts": {"rows_in": theirs["rows_in"], **counts, "truncated": theirs["truncated"]},
        **selection_facts(job, shards, selection, spec, emitted, job.selection.in_words),
        "timings": {name: dict(timing) for name, timing in timings.items()},
        "warnings": list(dict.fromkeys(said)),
    }
    if groups:
        summary["selection"]["groups"] = groups
    if certificate is not None:
        summary["selection"]["certificate"] = certificate.to_dict()
    summary["trust"] = {**trust}
    if (drift := (parent.manifest.get("trust") or {}).get("drift")) is not None:
        # Where another cut falls changes nothing of how far the data lies from that of the artifact.
        summary["trust"]["drift"] = drift
    summary["trust"]["verdict"] = verdict(summary).to_dict()
    empty = empty_dropped(spec.opened_schema(), with_quantile=True, with_ids=spec.with_ids)
    return finish(store, summary, [*emitted.files, *files], failed, spec.key, empty=empty, draw=draw)


def _of_the_rows(parent: Parent, methods: Mapping[str, Method]) -> list[str]:
    """The run's warnings but for those about its own cut."""
    manifest = parent.manifest
    dropped, quarantined = manifest["counts"]["dropped"], manifest["counts"]["quarantined"]
    scored = manifest["counts"]["rows_in"] - quarantined - int(manifest.get("unscored") or 0)
    gone = {
        *cut_warnings(methods, parent.frozen.artifacts, manifest["selected_by"], dropped, scored),
        *(drift_warnings(manifest["drift"]) if manifest.get("drift") is not None else ()),
        *(manifest["selection"].get("certificate") or {}).get("warnings", ()),
    }
    return [said for said in manifest["warnings"] if said not in gone and not said.startswith(ROUGH)]
