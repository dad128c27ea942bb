"""A finished run whose scores are cut anew, or whose vectors are scored anew: its manifest, its artifact, and whether
its files are as they were written.

Nothing of it is changed, and nothing of the model is read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.operators.problems import UNSCORED
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.frozen import Frozen, read_frozen
from tamis.pipeline.run.mending import damaged
from tamis.pipeline.run.paths import (
    CARD,
    FROZEN,
    INCOMPLETE,
    KEPT,
    MANIFEST,
    PARTS,
    QUARANTINE,
    REPORT,
    RUN,
    SCORES,
    table_of,
)
from tamis.pipeline.run.row_places import shard_of
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Sealed, Store

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Parent:
    """manifest: its content, of a run that drops samples. sha256: of the manifest as it lies there. frozen: what it has
    fitted. files: of the manifest, by name. said: with what it was named, for messages."""

    store: Store
    manifest: Mapping[str, Any]
    sha256: str
    frozen: Frozen
    files: Mapping[str, Mapping[str, Any]]
    said: str = "select"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that scored the rows, in the order of the job."""
        return self.frozen.facts.methods

    @cached_property
    def shards(self) -> tuple[str, ...]:
        """The names of the shards, in corpus order."""
        return tuple(sorted(shard_of(name) for name in self.files if name.startswith(f"{SCORES}/")))

    @cached_property
    def digest(self) -> str:
        """Of all that decides which rows there are and how they score."""
        parts = sorted(
            (name, file["sha256"]) for name, file in self.files.items() if name.startswith((f"{SCORES}/", QUARANTINE))
        )
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def scored(self) -> int:
        """How many rows have a score."""
        counts = self.manifest["counts"]
        unscored = int(self.manifest.get("unscored") or 0)
        return int(counts["rows_in"]) - int(counts["quarantined"]) - unscored

    def table(self, folder: str, shard: str) -> Sealed | None:
        """One shard's table in a folder of the output; None if it has none there."""
        file = self.files.get(table_of(folder, shard))
        return None if file is None else Sealed(str(file["name"]), str(file["sha256"]))

    def kept(self) -> Sealed:
        """One of the tables of kept/: all have one schema."""
        found = self.table(KEPT, self.shards[0])
        if found is None:
            raise _unreadable(self.store, self.said)
        return found

    def schema(self) -> pa.Schema:
        """Of the corpus's own columns, in kept/ of this run. Reads a file."""
        found: pa.Schema = pq.ParquetFile(io.BytesIO(self.store.read(self.kept()))).schema_arrow
        # Where sample ids are in kept/, they are its last column, whatever it is called beside the corpus's own.
        return found.remove(len(found) - 1) if self.manifest["job"].get("sample_id") == "all" else found

    def beside(self) -> list[Sealed]:
        """The files that do not depend on what fell: of the artifact and of the layer search."""
        ours = {CARD, REPORT, FROZEN}
        return [
            Sealed(name, str(file["sha256"]))
            for name, file in self.files.items()
            if name not in ours and name.partition("/")[0] not in PARTS
        ]

    def codes(self) -> dict[str, int]:
        """Code -> how many rows could not be scored for that reason."""
        found = {code: int(facts["rows"]) for code, facts in self.manifest["quarantine_codes"].items()}
        unscored = int(self.manifest.get("unscored") or 0)
        return {**found, **dict.fromkeys(UNSCORED if unscored else (), unscored)}

    def facts(self) -> dict[str, Any]:
        """What the manifest of a new selection says of this run."""
        selection = self.manifest["selection"]
        return {
            "path": self.store.path(),
            "run_id": self.manifest.get("run_id"),
            "manifest_sha256": self.sha256,
            "created": self.manifest["created"],
            "selected_by": self.manifest["selected_by"],
            "selection": {"how": selection["how"], "cut": selection["cut"]},
            "dropped": self.manifest["counts"]["dropped"],
        }


def read_parent(store: Store, said: str = "select") -> Parent:
    """The finished run in this folder. said: with what it was named, for messages. ConfigError, in one line, if there
    is none, it masks tokens, or its manifest or its artifact is damaged."""
    if not store.exists(MANIFEST):
        begun = store.exists(RUN) or store.exists(INCOMPLETE)
        raise ConfigError(
            f"{said}: the run in {store.path()} is not finished; run its command again first"
            if begun
            else f"{said}: {store.path()} holds no finished run (there is no {MANIFEST})"
        )
    try:
        manifest = facts_in(store, MANIFEST)
    except ConfigError:
        raise _unreadable(store, said) from None
    if manifest.get("kind") == "tokens":
        raise ConfigError(
            f"{said}: {store.path()} is of {manifest.get('method', 'toss')}, which masks tokens: it has no scores or "
            "vectors of samples; run its job with another toss.discard in a new output folder"
        )
    try:
        files = {
            safe_name(str(file["name"]), MANIFEST): {key: file[key] for key in ("name", "bytes", "sha256")}
            for file in manifest["files"]
        }
        frozen = read_frozen(store.url, store.options)
        parent = Parent(store, manifest, hashlib.sha256(store.read(MANIFEST)).hexdigest(), frozen, files, said)
        _ = parent.facts(), parent.codes(), parent.digest, parent.beside(), parent.kept()
        _ = manifest["job"]["selection"], manifest["input"]["files"][0]["url"], parent.scored
    except (AttributeError, LookupError, TypeError, ValueError):
        raise _unreadable(store, said) from None
    except ConfigError as error:
        raise ConfigError(str(error).replace("artifact: ", f"{said}: ", 1)) from None
    return parent


def check_whole(parent: Parent, captures: Sequence[Mapping[str, Any]] = ()) -> None:
    """ConfigError that names the files of the run that are missing or not as its manifest says. captures: entries of
    further files, which it has kept. Ray must be running."""
    bad = sorted(damaged(parent.store, [*parent.files.values(), *captures]))
    if bad:
        raise _damaged(parent, bad)


@contextmanager
def named_damage(parent: Parent) -> Iterator[None]:
    """Around what reads only the run: a file of it that is damaged only now cannot be made again here."""
    try:
        yield
    except DamagedError as error:
        raise _damaged(parent, [error.name]) from None


def _damaged(parent: Parent, names: Sequence[str]) -> ConfigError:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ConfigError(
        f"{parent.said}: {parent.store.path()} is damaged: {', '.join(names[:_SHOWN])}{more} is missing or not as it "
        "was written; put it back from a copy, or run its job again in a new output folder"
    )


def _unreadable(store: Store, said: str) -> ConfigError:
    return ConfigError(
        f"{said}: {store.path(MANIFEST)} is damaged, or of another version of tamis; put it back from a copy, or run "
        "its job again in a new output folder"
    )


def _shard_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".parquet")
