"""The events of `--log-format json`: every kind of line that tamis has for people, by a name that stays.

The table in docs/reference.md says what each one means; tests compare it with this file.
"""

from __future__ import annotations

from typing import Literal

Level = Literal["info", "warning", "error"]
Event = Literal[
    "command",
    "night",
    "plan",
    "unusable",
    "progress",
    "stage_done",
    "note",
    "warning",
    "workers",
    "damaged",
    "set_aside",
    "storage",
    "library",
    "check",
    "result",
    "stopping",
    "error",
    "end",
]

COMMON = ("time", "level", "event", "run", "command_id", "stage", "message")
"""The keys of every object, in this order. run, stage: null where there is none (yet)."""

_COUNTS = ("done", "total", "unit", "skipped", "seconds", "per_second", "tokens", "tokens_per_second", "seconds_left")

FIELDS: dict[Event, tuple[str, ...]] = {
    "command": ("name", "version", "pid"),
    "night": ("name", "state", "new", "covered", "touched", "duplicates", "changed", "waiting", "artifact"),
    "plan": (
        *("state", "files", "rows", "shards", "bytes", "tokens", "tokens_per_row", "rows_sampled", "unusable_share"),
        *("references", "methods", "model", "blocks", "width", "longest", "workers", "weights", "output", "will_fail"),
    ),
    "unusable": ("rows", "code", "file", "row"),
    "progress": (*_COUNTS, "doing"),
    "stage_done": (*_COUNTS, "doing"),
    "note": (),
    "warning": (),
    "workers": (),
    "damaged": (),
    "set_aside": ("shard", "source", "rows"),
    "storage": (),
    "library": ("name", "place"),
    "check": ("ok", "name", "found", "advice"),
    "result": (
        *("complete", "did_nothing", "rows_in", "kept", "dropped", "quarantined", "failed", "truncated", "unscored"),
        *("cut", "response_tokens", "discarded_tokens", "quarantine_codes", "seconds", "stage_seconds", "report"),
        *("corpus", "block", "chosen_by", "numbers", "page", "models", "files", "bytes", "rows", "leftovers"),
        *("trainer", "start", "taken", "ready", "output", "drift", "drift_exceeded", "verdict", "verdict_reasons"),
        *("seed", "strata", "labels", "labels_sha256", "chosen", "reproduced", "warnings", "parts"),
        *("left_out", "commit"),
    ),
    "stopping": ("signal", "at_once"),
    "error": ("exit_code", "kind"),
    "end": ("exit_code", "seconds"),
}
"""The further keys that each event may have. A key that does not apply to a line is left out of it."""
