"""The sections that the pages of all runs share: head, quarantine, and the course of the run (run_sections.html)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tamis.pipeline.report import prose, text

FILES_SHOWN = 30
COUNTS = ("rows_in", "kept", "dropped", "quarantined", "truncated")

_STAGES = {
    "plan": "Plan",
    "ray_start": "Ray start",
    "layers": "Layer search",
    "model_load": "Model load",
    "capture": "Capture (forward pass)",
    "fit": "Fit",
    "emit": "Emit (write output)",
    "trust": "Test of the filter",
    "total": "Total",
}


def run_view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The values of these sections for any summary, also an incomplete one."""
    job = summary.get("job") or {}
    source = summary.get("input") or {}
    return {
        "title": summary.get("title") or "tamis report",
        "created": summary.get("created") or "",
        "tamis_version": summary.get("tamis_version") or "",
        "counts": dict.fromkeys(COUNTS, 0) | dict(summary.get("counts") or {}),
        "warnings": list(summary.get("warnings") or []),
        "quarantine": _quarantine(summary.get("quarantine_codes") or {}),
        "input": source,
        "files": _largest(source.get("files") or []),
        "model": summary.get("model") or {},
        "timings": _timings(summary.get("timings") or {}),
        "job_yaml": text.as_yaml(job) if job else "",
        "fingerprint": summary.get("fingerprint") or {},
        "versions": summary.get("versions") or {},
    }


def _largest(files: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """The largest files, and how many are left out."""
    largest = sorted(files, key=lambda file: -(text.number(file.get("bytes")) or 0))
    return largest[:FILES_SHOWN], max(0, len(files) - FILES_SHOWN)


def _quarantine(codes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = {code: dict(entry or {}) for code, entry in codes.items()}
    ordered = sorted(known.items(), key=lambda item: (-text.whole(item[1].get("rows")), item[0]))
    return [{"code": code, "advice": prose.advice(code), **entry} for code, entry in ordered]


def _timings(timings: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for stage, cost in timings.items():
        known = cost if isinstance(cost, Mapping) else {"seconds": cost}
        rates = {name: text.number(known.get(name)) for name in ("rows_per_second", "tokens_per_second")}
        label = _STAGES.get(stage, stage.replace("_", " ").capitalize())
        rows.append({"stage": label, "total": stage == "total", "seconds": known.get("seconds"), **rates})
    return rows
