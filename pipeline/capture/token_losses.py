"""Token losses of every shard under TOSS's reference models: one Parquet file and one receipt each, as for vectors."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tamis.operators.problems import RowProblem
from tamis.pipeline.capture.spec import CaptureSpec
from tamis.pipeline.capture.worker import ModelWorker, TokenRows
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.storage.store import Sealed

if TYPE_CHECKING:
    from tamis.operators.forward.losses import TokenLosses

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class ReferenceModel:
    """A reference model. adapter: the files of its LoRA adapter in the store; if there is none, model and revision
    name a full model."""

    adapter: tuple[Sealed, ...] | None = None
    model: str = ""
    revision: str | None = None


@dataclass(frozen=True)
class LossSpec(CaptureSpec):
    """references: the models to score with, by the name of the column that holds the losses.
    with_tokens: also write the token ids and answer ranges."""

    references: Mapping[str, ReferenceModel] = field(default_factory=dict)
    with_tokens: bool = True


class TokenScorer(ModelWorker):
    """Captures one list<float32> column per reference model: the loss of each response token, in order."""

    spec: LossSpec
    scorers: list[TokenLosses]

    def engine(self) -> type[TokenLosses]:
        from tamis.operators.forward.losses import TokenLosses

        return TokenLosses

    def load(self, path: str) -> None:
        """Adapters share one copy of the base model; a full model is loaded beside it."""
        spec, engine = self.spec, self.engine()
        options = spec.model.loading
        adapters = {name: item.adapter for name, item in spec.references.items() if item.adapter is not None}
        self.scorers, self.names = [], []
        try:
            if adapters:
                with tempfile.TemporaryDirectory(prefix="tamis-adapters-") as folder:
                    local = {name: self._copied(item, Path(folder) / name) for name, item in adapters.items()}
                    self.scorers.append(engine.load(path, adapters=local, **options))
                self.names.append({name: name for name in adapters})
            for name, item in spec.references.items():
                if item.adapter is None:
                    other = replace(spec.model, source=item.model, revision=item.revision)
                    self.scorers.append(engine.load(other.fetch(), **options))
                    self.names.append({"base": name})
        except ValueError as error:
            raise ConfigError(f"the reference models cannot be used: {error}") from None
        self.readings = len(self.scorers)
        scorer = self.scorers[0]
        self.precision = f"{str(scorer.dtype).removeprefix('torch.')} on {scorer.device.type}"

    def _copied(self, stored: Sequence[Sealed], folder: Path) -> Path:
        folder.mkdir(parents=True)
        for file in stored:
            (folder / posixpath.basename(file.name)).write_bytes(self.spec.store.read(file))
        return folder

    def run(
        self, rows: TokenRows, on_batch: Callable[[int], None] | None
    ) -> tuple[dict[str, pa.Array], dict[int, RowProblem]]:
        columns: dict[str, pa.Array] = {}
        problems: dict[int, RowProblem] = {}
        for scorer, names in zip(self.scorers, self.names, strict=True):
            losses, refused = scorer.losses(
                rows.input_ids,
                rows.responses,
                token_budget=self.token_budget,
                exact=self.spec.exact,
                on_batch=on_batch,
            )
            problems = refused | problems
            columns |= {names[name]: ragged(found, pa.float32()) for name, found in losses.items()}
        if self.spec.with_tokens:
            columns["input_ids"] = ragged(rows.input_ids, pa.int32())
            columns["starts"] = ragged([ranges[:, 0] for ranges in rows.responses], pa.int32())
            columns["stops"] = ragged([ranges[:, 1] for ranges in rows.responses], pa.int32())
        return columns, problems


def ragged(rows: list[np.ndarray[Any, Any]], kind: pa.DataType) -> pa.LargeListArray:
    """Arrays of any lengths as one column."""
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)])
    flat = np.concatenate(rows) if rows else np.empty(0)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(flat, kind))
