"""The artifact of a run as a later run applies it: artifact/ by itself, whole and sealed.

artifact/frozen.json has the cut, how it was made, the settings that the scores depend on, and the statistics that new
data is compared with. It has a seal, and the sha256 of every other file that is needed. A run with `artifact:` copies
these files into its own output as they are, so that its output can be applied in the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.numpy

from tamis.operators.methods.protocol import Artifact
from tamis.operators.statistics.selection import Threshold
from tamis.pipeline.errors import ConfigError, DamagedError
from tamis.pipeline.run.paths import ARTIFACT, ARTIFACT_FACTS, FROZEN, MANIFEST, REFIT
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.seals import opened, sealed
from tamis.pipeline.storage.store import Sealed, Store

FORMAT = 1
"""Raise it when frozen.json has another form."""


@dataclass(frozen=True)
class FrozenCut:
    """Which scores fall, of any data. score: rows above it fall; None: no row falls. ties: of the rows with exactly
    this score, how many fall, the first in the order of the corpus; None: all of them."""

    score: float | None
    ties: int | None

    @classmethod
    def of(cls, threshold: Threshold, at: int) -> FrozenCut:
        """The cut of a finished selection. at: how many of its rows have exactly the score of the cut.

        Where all of these fell, all fall in new data: rows of one text go one way, however often it comes.
        """
        if math.isinf(threshold.value):
            return cls(None, 0)
        falling = threshold.at_quota or 0
        return cls(threshold.value, None if falling and falling == at else falling)


@dataclass(frozen=True, eq=False)
class FrozenFacts:
    """The content of frozen.json, besides the files.

    methods: in the order of the job that made it. settings: of its fingerprint, without the input. dtype, device: of
    its forward passes. model: name and revision. template: model.template as text, if the job had one. statistics: of
    its corpus (pipeline/fit/drift.py). tests: of its methods on references that they have not seen
    (pipeline/fit/reference_tests.py); none in an artifact of an earlier tamis, or one that nights have refitted.
    """

    methods: tuple[str, ...]
    selected_by: str
    how: str
    cut: FrozenCut
    settings: Mapping[str, Any]
    dtype: str
    device: str
    model: Mapping[str, Any]
    template: str | None
    statistics: Mapping[str, Any]
    tests: Sequence[Mapping[str, Any]] = ()

    def to_dict(self) -> dict[str, Any]:
        plain = {"methods": list(self.methods), "cut": vars(self.cut), "tests": list(self.tests)}
        return {**vars(self), **plain}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> FrozenFacts:
        known = {name: tree[name] for name in cls.__dataclass_fields__ if name != "tests" or name in tree}
        return cls(**{**known, "methods": tuple(tree["methods"]), "cut": FrozenCut(**tree["cut"])})


@dataclass(frozen=True, eq=False)
class Frozen:
    """An artifact that was read and checked. where: for people. files: name under artifact/ -> content, of all that a
    copy needs. digest: of frozen.json, which tells all files by their sha256. folder: that holds these files."""

    where: str
    facts: FrozenFacts
    artifacts: Mapping[str, Artifact]
    files: Mapping[str, bytes]
    digest: str
    folder: str = ""

    def copy_to(self, store: Store) -> list[dict[str, Any]]:
        """Write the same artifact into another output; the entries of its files for a manifest."""
        return [store.write(f"{ARTIFACT}/{name}", data).to_receipt() for name, data in self.files.items()]


def freeze(store: Store, facts: FrozenFacts, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Write FROZEN beside the files of `save_artifacts` (fit/scores.py), and return its entry for a manifest."""
    listed = [
        {"name": file["name"].removeprefix(f"{ARTIFACT}/"), "bytes": file["bytes"], "sha256": file["sha256"]}
        for file in files
    ]
    return store.write_facts(FROZEN, {"format": FORMAT, **facts.to_dict(), "files": listed}).to_receipt()


def read_frozen(url: str, options: Mapping[str, Any]) -> Frozen:
    """The artifact in an output folder, or in its artifact/ alone. ConfigError, in one line, where there is none, it is
    damaged, or the run in an output folder is not finished."""
    store = Store(url, options)
    try:
        folder, listed = _place(store)
    except ConfigError as error:  # the store calls every folder output
        raise ConfigError(str(error).replace("output: ", "artifact: ", 1)) from None
    name = f"{folder}{FROZEN.removeprefix(f'{ARTIFACT}/')}"
    where = store.path(name)
    try:
        data = store.read(name)
        tree = opened(json.loads(data))
    except (ValueError, RecursionError):
        raise _damaged(where, "it is not as it was written") from None
    if tree.get("format") != FORMAT:
        raise ConfigError(
            f"artifact: {where} has the form {tree.get('format')!s:.20} of another version of tamis, this one reads "
            f"{FORMAT}; run the job that made it again"
        )
    try:
        facts = FrozenFacts.from_dict(tree)
        files = {safe_name(file["name"], where): file["sha256"] for file in tree["files"]}
        contents = {each: store.read(Sealed(f"{folder}{each}", sha256)) for each, sha256 in files.items()}
        artifacts = artifacts_of(contents, facts.methods)
    except DamagedError as error:
        raise _damaged(store.path(error.name), str(error).partition(": ")[2]) from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _damaged(where, f"it is not as tamis writes it ({type(error).__name__})") from None
    if listed is not None:
        all_files = {**files, FROZEN.removeprefix(f"{ARTIFACT}/"): hashlib.sha256(data).hexdigest()}
        strangers = [each for each, sha256 in all_files.items() if listed.get(f"{ARTIFACT}/{each}") != sha256]
        if strangers:
            raise _damaged(store.path(f"{ARTIFACT}/{strangers[0]}"), f"it is not the file that {MANIFEST} lists")
    whole = {**contents, FROZEN.removeprefix(f"{ARTIFACT}/"): data}
    return Frozen(store.path(), facts, artifacts, whole, sealed(tree)["seal"], store.path(folder.rstrip("/")))


def artifacts_of(contents: Mapping[str, bytes], methods: Iterable[str]) -> dict[str, Artifact]:
    """The artifacts of these methods. contents: by name under artifact/. LookupError, TypeError or ValueError where
    they are not as tamis writes them."""
    facts = json.loads(contents[ARTIFACT_FACTS.removeprefix(f"{ARTIFACT}/")])["methods"]
    return {name: Artifact(safetensors.numpy.load(contents[f"{name}.safetensors"]), facts[name]) for name in methods}


def read_artifacts(
    store: Store, files: Iterable[Sealed], methods: Iterable[str], folder: str = ARTIFACT
) -> dict[str, Artifact]:
    """The artifacts of these methods in an output. files: all of the folder that they need. DamagedError if a file is
    not as it was written."""
    contents = {file.name.removeprefix(f"{folder}/"): store.read(file) for file in files}
    return artifacts_of(contents, methods)


def _place(store: Store) -> tuple[str, Mapping[str, str] | None]:
    """The folder of the artifact in the store ("" or "artifact/"), and what the manifest of a whole output lists."""
    alone = FROZEN.removeprefix(f"{ARTIFACT}/")
    if store.exists(MANIFEST):
        try:
            manifest = store.read_facts(MANIFEST)
            listed = {file["name"]: file["sha256"] for file in manifest["files"]}
        except (LookupError, TypeError, ValueError):
            raise _damaged(store.path(MANIFEST), "it was not written by tamis, or is damaged") from None
        if manifest.get("kind") == "tokens":
            raise ConfigError(
                f"artifact: {store.path()} is of {manifest.get('method', 'toss')}, which masks tokens and cannot be "
                "applied to new data yet; name its adapters in toss.utility_model and toss.harmful_model"
            )
        if store.exists(FROZEN):
            return f"{ARTIFACT}/", listed
    elif store.exists(alone):
        return "", None
    elif store.exists(FROZEN) and store.exists(REFIT):
        return f"{ARTIFACT}/", None
    elif store.exists(FROZEN):
        raise ConfigError(f"artifact: the run in {store.path()} is not finished; run its command again first")
    earlier = "an earlier tamis made it without; run its job again" if store.exists(ARTIFACT) else "there is none"
    raise ConfigError(
        f"artifact: {store.path()} holds no {FROZEN}, which a finished run of larf, saft or another method that scores "
        f"samples writes ({earlier})"
    )


def _damaged(where: str, what: str) -> ConfigError:
    return ConfigError(f"artifact: {where}: {what}; put it back from a copy, or run the job that made it again")
