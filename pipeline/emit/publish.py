"""The end of a run: dataset card, report, and finally the manifest, whose presence means that the run is complete."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tamis.operators.conversation.schema import digit_notes, json_places
from tamis.operators.methods import Method
from tamis.operators.methods.protocol import Artifact
from tamis.operators.problems import UNSCORED
from tamis.operators.statistics.ranks import rho
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.emit.browse import with_samples
from tamis.pipeline.emit.samples import SampleSpec
from tamis.pipeline.emit.shard import empty_dropped
from tamis.pipeline.emit.totals import Emitted, EmitTotals, Pick, TokenTotals
from tamis.pipeline.errors import InternalError
from tamis.pipeline.fit.drift import MAJORITY
from tamis.pipeline.fit.scores import Selection, shown_cut
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.methods import distributions
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.report import render_card, render_report
from tamis.pipeline.report.drift import warnings as drift_warnings
from tamis.pipeline.report.verdict import verdict
from tamis.pipeline.run.folder import run_id
from tamis.pipeline.run.incomplete import warning, write_manifest
from tamis.pipeline.run.paths import CARD, EMPTY_DROPPED, REPORT
from tamis.pipeline.run.row_places import SHARDS
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase

_PACKAGES = (
    "tamis",
    "ray",
    "torch",
    "transformers",
    "tokenizers",
    "pyarrow",
    "datasets",
    "numpy",
    "safetensors",
)
_LISTED_UNREAD = 1000
"""The most names of files that were not read, in the manifest."""

ROUGH = "the scores lie so close together that ranks and quantiles are rough"
"""The begin of the warning about scores that are too close together for their bins."""


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def publish(
    store: Store,
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    artifact_files: list[dict[str, Any]],
    selection: Selection,
    spec: SampleSpec,
    captured: CaptureTotals,
    emitted: EmitTotals,
    timings: Mapping[str, Mapping[str, float]],
    notes: list[str],
    layers: Mapping[str, Any] | None,
    drift: Mapping[str, Any] | None,
    groups: Sequence[Mapping[str, Any]] = (),
    trust: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the remaining files and return the manifest. InternalError if a row is missing anywhere.

    layers: the layer search in this folder, for the report. drift: from the corpus of the job's artifact. groups: of
    rows that have cuts of their own. trust: the figures that test the filter, if it was tested; the verdict on them is
    added here.
    """
    counts, failed = counted(plan, emitted)
    if not emitted.failed and counts["dropped"] != selection.dropped:
        raise InternalError(
            f"{counts['dropped']} rows were dropped where the cut says {selection.dropped}; please report this"
        )
    counts["truncated"] = captured.truncated
    drifted = drift_warnings(drift) if drift is not None else []
    notes = [*warning(failed), *drifted, *notes, *column_notes(captured, emitted)]
    summary = _summary(plan, artifacts, selection, spec, captured, emitted, timings, counts, notes)
    if groups:
        summary["selection"]["groups"] = list(groups)
    if layers is not None and "larf" in artifacts:
        summary["layers"] = dict(layers)
    if drift is not None:
        summary["drift"] = dict(drift)
    if trust is not None:
        summary["trust"] = {**trust}
        if drift is not None:
            above = [name for name in drift["exceeded"] if name != MAJORITY]
            summary["trust"]["drift"] = {"limit": drift["limit"], "exceeded": above}
        summary["trust"]["verdict"] = verdict(summary).to_dict()
    files = [*emitted.files, *artifact_files]
    empty = empty_dropped(spec.opened_schema(), with_quantile=True, with_ids=spec.with_ids)
    return finish(store, summary, files, failed, spec.key, empty=empty, draw=draw)


def finish(
    store: Store,
    summary: Mapping[str, Any],
    files: Iterable[Mapping[str, Any]],
    failed: list[SetAside],
    key: str,
    *,
    empty: pa.Table,
    draw: Callable[[Store, Mapping[str, Any]], str],
) -> dict[str, Any]:
    """Write the dataset card, the report and then the manifest, and return that.

    files: all that the run has written so far. key: of the receipts of what was emitted. empty: for dropped/ if nothing
    was dropped. draw: the report.
    """
    listed = [{key: file[key] for key in ("name", "bytes", "sha256", SHARDS) if key in file} for file in files]
    phase("publish", "drawing the report")
    known = run_id(store, summary["fingerprint"])
    summary = {**summary, "run_id": known, "json_columns": list(json_places(empty.schema))}
    store.remove(EMPTY_DROPPED)
    if not summary["counts"]["dropped"]:
        listed.append(store.write_table(EMPTY_DROPPED, empty).to_dict())
    listed.append(store.write(CARD, render_card(summary).encode()).to_dict())
    listed.append(store.write(REPORT, draw(store, {**summary, "files": listed}).encode()).to_dict())
    listed.sort(key=lambda file: str(file["name"]))
    return write_manifest(store, {**summary, "files": listed}, failed, key)


def column_notes(captured: CaptureTotals, emitted: Emitted) -> list[str]:
    """What the output does not hold as the input had it, and what `datasets` does not read as the output holds it."""
    schema = captured.seen_schema()
    return [
        *(digit_notes(schema) if schema is not None else ()),
        *(
            f"column {name}: {count:,} of its JSON texts hold numbers that datasets.load_dataset misreads (beyond 64 "
            "bits, NaN, or tiny); the texts are right, json.loads reads them"
            for name, count in sorted(emitted.misread.items())
        ),
    ]


def draw(store: Store, summary: Mapping[str, Any]) -> str:
    """The report of a run that dropped samples."""
    return render_report(with_samples(store, summary))


def counted(plan: Plan, emitted: Emitted) -> tuple[dict[str, int], list[SetAside]]:
    """Where the rows of the input are, and the shards that are nowhere. InternalError if a row is lost or doubled."""
    failed = [*plan.failed, *emitted.failed]
    counts = {"rows_in": plan.rows_in, **{name: emitted.counts[name] for name in ("kept", "dropped", "quarantined")}}
    if failed:
        counts["failed"] = sum(item.rows for item in failed)
    if counts["rows_in"] != sum(counts.values()) - counts["rows_in"]:
        raise InternalError(f"rows were lost or doubled: {counts}; nothing was published, please report this")
    return counts, failed


def _summary(
    plan: Plan,
    artifacts: Mapping[str, Artifact],
    selection: Selection,
    spec: SampleSpec,
    captured: CaptureTotals,
    emitted: EmitTotals,
    timings: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    notes: list[str],
) -> dict[str, Any]:
    job = plan.job
    about_the_cut = cut_warnings(plan.methods, artifacts, job.selected_by, selection.dropped, spec.scored)
    warnings = [*dict.fromkeys(notes), *about_the_cut]
    frozen = plan.artifact.frozen.facts if plan.artifact is not None else None
    how = job.selection.in_words if frozen is None else f"at the cut of the artifact, made by {frozen.how}"
    facts = run_facts(plan, counts, captured)
    codes = facts.pop("quarantine_codes")
    unscored = sum(codes.pop(code)["rows"] for code in UNSCORED & codes.keys())
    if unscored:
        warnings.append(
            f"{unscored:,} rows have no turn that is trained on: they are in kept/ as they are, and were not scored"
        )
    return {
        **facts,
        "quarantine_codes": codes,
        "unscored": unscored,
        "methods": method_facts(plan.methods, artifacts),
        **selection_facts(job, plan.shards, selection, spec, emitted, how),
        "timings": {name: dict(timing) for name, timing in timings.items()},
        "warnings": warnings,
    }


def method_facts(methods: Mapping[str, Method], artifacts: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """What a summary says of each method."""
    installed = distributions(list(artifacts))
    return [
        {
            "name": name,
            "title": methods[name].title,
            "reading": methods[name].explain(artifact.facts),
            **({"distribution": installed[name]} if name in installed else {}),
            "layer": artifact.facts.get("layer"),
            "position": artifact.facts.get("position"),
            "facts": artifact.facts,
        }
        for name, artifact in artifacts.items()
    ]


def cut_warnings(
    methods: Mapping[str, Method], artifacts: Mapping[str, Artifact], selected_by: str, dropped: int, scored: int
) -> list[str]:
    """What a person should know of a cut that drops so many of the scored rows."""
    warnings = []
    for name, method in methods.items():
        warnings.extend(method.warnings(artifacts[name], dropped / scored if name == selected_by else 0.0))
    if not dropped:
        warnings.append(
            "nothing was dropped: the cut lies above every score, or the share of so few rows is less than one"
        )
    return warnings


def selection_facts(
    job: Job, shards: Sequence[Shard], selection: Selection, spec: SampleSpec, emitted: EmitTotals, how: str
) -> dict[str, Any]:
    """The part of a summary that follows from what fell. how: the cut, in words."""
    unordered = job.selection.control is not None or job.selection.has_groups
    samples = partial(_samples, {shard.index: shard for shard in shards}, by_chance=unordered)
    return {
        "selected_by": job.selected_by,
        "selection": {
            "how": how,
            "cut": None if unordered else shown_cut(selection.threshold),
            "requested": job.selection.rule[1],
            "at_cut": selection.at_cut,
        },
        "histogram": {
            "edges": spec.edges.tolist(),
            "kept": emitted.histogram[0].tolist(),
            "dropped": emitted.histogram[1].tolist(),
        },
        "sources": [
            {"source": source, "rows": rows, "dropped": dropped}
            for source, (rows, dropped) in sorted(emitted.sources.items())
        ],
        "own_sources": None
        if not emitted.own_sources
        else [
            {"source": source, "rows": rows, "dropped": dropped}
            for source, (rows, dropped) in sorted(emitted.own_sources.items())
        ],
        "length_deciles": _deciles(spec, selection, emitted),
        "score_length_spearman": rho(emitted.final_rank_sums()),
        "riskiest": samples(emitted.riskiest, first_rank=1, step=1),
        "borderline_dropped": samples(emitted.borderline_dropped, first_rank=selection.dropped, step=-1),
        "borderline_kept": samples(emitted.borderline_kept, first_rank=selection.dropped + 1, step=1),
    }


def run_facts(plan: Plan, counts: Mapping[str, int], quarantined: CaptureTotals | TokenTotals) -> dict[str, Any]:
    """The part of a summary that does not depend on the method: input, model, settings, versions, rows.
    quarantined: has the codes of all quarantined rows.
    """
    return {
        "title": f"tamis · {', '.join(plan.job.method)} on {plan.rows_in:,} rows",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tamis_version": importlib.metadata.version("tamis"),
        "job": plan.job.model_dump(mode="json"),
        "fingerprint": dict(plan.fingerprint),
        "versions": versions(),
        "input": {
            "files": [
                {
                    "path": item.file.name,
                    "url": item.file.url,
                    "identity": item.file.identity,
                    **({"sha256": item.file.sha256} if item.file.sha256 else {}),
                    **({"partition": item.file.partition} if item.file.partition else {}),
                    "dialect": item.dialect.describe(),
                    "columns": item.dialect.to_dict(),
                    "rows": item.rows,
                    "bytes": item.file.bytes,
                    "format": item.file.format + (f" ({item.file.compression})" if item.file.compression else ""),
                }
                for item in plan.files
            ],
            "not_read": {
                "files": len(plan.unread.files),
                "names": list(plan.unread.files[:_LISTED_UNREAD]),
                "hidden": plan.unread.hidden,
            },
            "rows": plan.rows_in,
            "bytes": plan.bytes,
            "changed": plan.changed,
        },
        **({} if plan.night is None else {"night": dict(plan.night)}),
        "model": {
            "name": plan.job.model.name,
            "revision": plan.model.revision,
            "architecture": plan.model_info.architecture,
            "blocks": plan.model_info.blocks,
            "width": plan.model_info.width,
            "dtype": plan.job.model.dtype,
            "device": plan.job.model.device,
        },
        "counts": dict(counts),
        "quarantine_codes": {
            code: {"rows": rows, "message": quarantined.messages[code]}
            for code, rows in quarantined.codes.most_common()
        },
    }


def _deciles(spec: SampleSpec, selection: Selection, emitted: EmitTotals) -> list[dict[str, int]]:
    present = np.flatnonzero(selection.sums.lengths)
    bounds = [int(present[0]) - 1, *spec.decile_edges.tolist(), int(present[-1])]
    return [
        {"low": low + 1, "high": high, "rows": int(rows), "dropped": int(dropped)}
        for low, high, rows, dropped in zip(bounds[:-1], bounds[1:], *emitted.deciles, strict=True)
        if rows
    ]


def _samples(
    shards: Mapping[int, Shard], picks: list[Pick], first_rank: int, step: int, *, by_chance: bool
) -> list[dict[str, Any]]:
    samples = []
    for number, (score, index, place, length) in enumerate(picks):
        shard = shards[index]
        row = shard.span.start_row + place
        [sample_id] = sample_ids(shard.file.name, row, 1)
        samples.append(
            {
                "sample_id": sample_id,
                "source": shard.file.name,
                "row": row,
                "score": score,
                # When chance or each group decides, the rows on either side of the cut have no neighbouring ranks.
                "rank": None if by_chance and first_rank != 1 else first_rank + step * number,
                "n_response_tokens": length,
                "shard": shard.name,
                "dialect": dict(shard.dialect),
            }
        )
    return samples
