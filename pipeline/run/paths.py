"""Every file and folder of an output, each named once. Relative to the output, with slashes.

What people and trainers read lies at the top; what the stages leave for each other lies in WORK, which goes at the end.
"""

from __future__ import annotations

KEPT, DROPPED, QUARANTINE, SCORES = "kept", "dropped", "quarantine", "scores"
PARTS = (KEPT, DROPPED, QUARANTINE, SCORES)
"""What emit writes: a Parquet file of each shard in each of them."""
EMPTY_DROPPED = f"{DROPPED}/000000-none.parquet"
"""Where nothing was dropped: the columns and no row."""

ARTIFACT = "artifact"
ARTIFACT_FACTS = f"{ARTIFACT}/artifact.json"
LAYERS = f"{ARTIFACT}/layers.json"
REFERENCES = f"{ARTIFACT}/references"
ROUNDS = f"{ARTIFACT}/rounds"

CARD, REPORT, LAYERS_PAGE = "README.md", "report.html", "layers.html"
MANIFEST = "manifest.json"
INCOMPLETE = "incomplete.json"
"""What a run leaves in the manifest's place when it had to set shards aside."""

WORK = "_work"
RUN = f"{WORK}/run.json"
LAYERS_RUN = f"{WORK}/layers.json"
DRIVER = f"{WORK}/driver.json"
EMIT_CLAIM = f"{WORK}/emit.json"
PLANNED_MODEL = f"{WORK}/plan/model.json"
PLANNED_ROWS = f"{WORK}/plan/rows.json"
FITTED = f"{WORK}/scores"
"""Each shard's scores before the cut is known."""
TRAINING_WORK = f"{WORK}/references"
"""Rows and checkpoints of the reference models."""
SET_ASIDE = f"{WORK}/set_aside"
RECEIPTS = f"{WORK}/receipts"


def table_of(folder: str, shard: str) -> str:
    """Of one shard, by its name."""
    return f"{folder}/{shard}.parquet"


def stage_folder(name: str) -> str:
    """Where a stage leaves what it has made."""
    return f"{WORK}/{name}"
