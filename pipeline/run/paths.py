"""Every file and folder of an output, each named once. Relative to the output, with slashes.

Files for people and trainers lie at the top. Files that the stages leave for each other lie in WORK, which is removed
at the end.
"""

from __future__ import annotations

KEPT, DROPPED, QUARANTINE, SCORES = "kept", "dropped", "quarantine", "scores"
PARTS = (KEPT, DROPPED, QUARANTINE, SCORES)
"""The folders that emit writes, in Parquet: one file per shard, or of kept/ and dropped/ one for several shards
(row_places.py)."""
EMPTY_DROPPED = f"{DROPPED}/000000-none.parquet"
"""Written if nothing was dropped: the columns and no rows."""

INPUT_DIGEST = "tamis.input"
"""Key of the schema metadata of scores/: the digest of the shard's rows as they were read."""

ARTIFACT = "artifact"
ARTIFACT_FACTS = f"{ARTIFACT}/artifact.json"
FROZEN = f"{ARTIFACT}/frozen.json"
"""Written once the cut is made: with it, the folder is all that `artifact:` of another job needs."""
CORPUS_SAMPLE = f"{ARTIFACT}/corpus_sample.json"
"""Which rows of the corpus were drawn for the fit, if any were."""
LAYERS = f"{ARTIFACT}/layers.json"
REFERENCES = f"{ARTIFACT}/references"
ROUNDS = f"{ARTIFACT}/rounds"

CARD, REPORT, LAYERS_PAGE = "README.md", "report.html", "layers.html"
MANIFEST = "manifest.json"
INCOMPLETE = "incomplete.json"
"""Written instead of the manifest when shards have failed."""

DEMONSTRATIONS = "safety_demonstrations.parquet"
"""Which rows refuse a request that looks harmful (fit/demonstrations.py)."""

WORK = "_work"
RUN = f"{WORK}/run.json"
LAYERS_RUN = f"{WORK}/layers.json"
NIGHT = f"{WORK}/night.json"
"""Which input files a night of a schedule has taken, until its manifest says so."""
DRIVER = f"{WORK}/driver.json"
EMIT_CLAIM = f"{WORK}/emit.json"
LINEAGE = f"{WORK}/lineage.json"
"""There while a command has sent the start of the run as an event, and not its end."""
PLANNED_MODEL = f"{WORK}/plan/model.json"
PLANNED_ROWS = f"{WORK}/plan/rows.json"
FITTED = f"{WORK}/scores"
"""Each shard's scores before the cut is known."""
RANKED = f"{WORK}/ranked"
"""The same with the mean of the methods' ranks, where that decides."""
GROUPED = f"{WORK}/grouped"
"""The same with what falls, where each group of rows has a cut of its own."""
RANK_TABLES = f"{WORK}/ranks"
"""Each method's distinct scores and their ranks."""
TRAINING_WORK = f"{WORK}/references"
"""Rows and checkpoints of the reference models."""
SET_ASIDE = f"{WORK}/set_aside"
RECEIPTS = f"{WORK}/receipts"
VECTORS_STAGE = "capture"
"""The stage that writes vectors: its folder, and that of its receipts."""
SCORED_STAGE = "scored"
"""In its place where the corpus pass writes scores, so that no reader of vectors ever opens a table of scores."""


CONSENSUS = f"{WORK}/consensus"
"""Each shard's scores with the mean over several models, where CSA reads several."""
CONSENSUS_FACTS = f"{ARTIFACT}/consensus.json"
"""How the scores of these models were scaled."""

REFIT = "refit.json"
"""Beside artifact/: it was fitted from the captures of several runs, and these are named here. Written last."""
ARTIFACTS = "_artifacts"
"""Under the root of a schedule: a folder for each artifact that was fitted from the captures of nights."""


def stage_under(stage: str, number: int) -> str:
    """The stage as it runs under CSA's further model of this number, from 1 on."""
    return f"{stage}-{number}"


def artifact_under(number: int) -> str:
    """The folder of what was fitted under that model."""
    return f"{ARTIFACT}/models/{number}"


def table_of(folder: str, shard: str) -> str:
    """The path of one shard's table."""
    return f"{folder}/{shard}.parquet"


def stage_folder(name: str) -> str:
    """The folder for a stage's results."""
    return f"{WORK}/{name}"
