"""`tamis export`: kept/ of a finished run -> a folder that a trainer reads, with the trainer's config file or script.

Of a run that masked tokens: a dataset as `save_to_disk` writes it, with input_ids, attention_mask and labels and no
other column, since trainers hand all columns to the model or fail on them. Of a run that dropped samples: the Parquet
files as they are. Whatever is written last makes the export whole: the config file or script.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tamis.operators.conversation.dialects import Dialect
from tamis.pipeline.commands.plain_messages import Kept, line, unlike_torchtune
from tamis.pipeline.commands.trainers import (
    MESSAGES,
    TORCHTUNE,
    TRAINERS,
    Model,
    Text,
    for_masked,
    for_messages,
    for_text,
)
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.run.folder import facts_in
from tamis.pipeline.run.paths import KEPT, MANIFEST
from tamis.pipeline.storage.safe_names import safe_name
from tamis.pipeline.storage.store import Sealed, Store
from tamis.pipeline.terminal.progress import Progress, at_work, phase

COLUMNS = ["input_ids", "attention_mask", "labels"]
DATA, DATASET = "data", "dataset"


@dataclass(frozen=True)
class Exported:
    """rows: that were written. start: the file to start the trainer with, or the folder of the messages. left_out: rows
    of kept/ of which nothing is learned, where these cannot be told apart in the export."""

    rows: int
    start: str
    left_out: int = 0


@at_work()
def export(store: Store, trainer: str, folder: Store) -> Exported:
    """Write what `trainer` reads of the run in `store` to `folder`.

    Raises ConfigError if there is no finished run, `folder` holds something, or the trainer cannot train on this kept/
    as the run left it; DamagedError for a file that is not as the run wrote it.
    """
    phase("export", "reading the manifest")
    if trainer not in TRAINERS:
        raise ConfigError(f"--for {trainer}: there is {', '.join(TRAINERS)}")
    if not store.exists(MANIFEST):
        raise ConfigError(f"{store.path()}: no finished run here (there is no {MANIFEST}); see `tamis status`")
    manifest = facts_in(store, MANIFEST)
    if not folder.is_local:
        raise ConfigError(f"--output: {folder.path()} is no folder of this machine, where trainers read")
    if f"{folder.path()}/".startswith(f"{store.path()}/"):
        raise ConfigError(f"--output: {folder.path()} lies in the output of the run; choose a folder beside it")
    if folder.list(""):
        raise ConfigError(f"--output: {folder.path()} holds something already; choose another folder")
    spec = manifest["job"]["model"]
    name = os.path.abspath(spec["name"]) if os.path.isdir(spec["name"]) else spec["name"]
    model = Model(name, spec["revision"], spec["trust_remote_code"])
    listed = {f["name"].partition("/")[2]: f["sha256"] for f in manifest["files"] if f["name"].startswith(f"{KEPT}/")}
    if not manifest["counts"]["kept"]:
        raise ConfigError(f"{store.path(KEPT)} has no rows; there is nothing to train on")
    files = [Sealed(f"{KEPT}/{safe_name(base, MANIFEST)}", listed[base]) for base in sorted(listed)]
    if manifest.get("kind") == "tokens":
        return _masked(store, trainer, folder, files, model)
    if trainer in (TORCHTUNE, MESSAGES):
        return _messages(trainer, folder, Kept(store, manifest, files))
    return _text(store, trainer, folder, files, model, manifest)


def _masked(store: Store, trainer: str, folder: Store, files: list[Sealed], model: Model) -> Exported:
    for_masked(trainer, "", model, 0)  # refuses before anything is written
    # LLaMA-Factory before 0.9 looks for the split.
    inner = f"{DATASET}/train" if trainer == "llama-factory" else DATASET
    rows = longest = 0
    names: list[str] = []
    progress = Progress("export", len(files), unit="files", brief=True)
    for table in _tables(store, files, progress.advance):
        names.append(f"data-{len(names):05d}.arrow")
        folder.write(f"{inner}/{names[-1]}", _stream(table))
        rows += table.num_rows
        longest = max(longest, pc.max(pc.list_value_length(table.column("input_ids"))).as_py())
    progress.finish()
    # Without features, every version of `datasets` takes the types of the files.
    folder.write_json(f"{inner}/dataset_info.json", {"features": None})
    fingerprint = hashlib.sha256("".join(file.sha256 for file in files).encode()).hexdigest()[:16]
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": fingerprint}
    folder.write_json(f"{inner}/state.json", {**state, **_STATE})
    if inner != DATASET:
        folder.write_json(f"{DATASET}/dataset_dict.json", {"splits": ["train"]})
    return Exported(rows, _written(folder, for_masked(trainer, folder.path(DATASET), model, longest)))


def _written(folder: Store, texts: Mapping[str, str]) -> str:
    """The name of the last of these files, after they are written."""
    for name, text in texts.items():
        folder.write(name, text.encode())
    return [*texts][-1]


_STATE: dict[str, Any] = {
    "_format_columns": None,
    "_format_kwargs": {},
    "_format_type": None,
    "_output_all_columns": False,
    "_split": None,
}


def _layout(read: Dialect, there: list[str]) -> Dialect:
    """What of a layout matters to a trainer: the columns that are there."""
    columns = tuple((part, column) for part, column in read.columns if column in there)
    return Dialect(read.name, columns, read.join, encoded=read.encoded)


def _tables(store: Store, files: list[Sealed], on_done: Callable[[int], None]) -> Iterator[pa.Table]:
    """The training columns of every row group: a file may hold many shards. on_done: called with 1 after each file."""
    for file in files:
        opened = pq.ParquetFile(io.BytesIO(store.read(file)), page_checksum_verification=True)
        if not set(COLUMNS) <= set(opened.schema_arrow.names):
            raise ConfigError(f"{store.path(file.name)} has no attention_mask; make the mask anew with this tamis")
        for group in range(opened.num_row_groups):
            yield opened.read_row_group(group, columns=COLUMNS).replace_schema_metadata(None)
        on_done(1)


def _stream(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _text(
    store: Store, trainer: str, folder: Store, files: list[Sealed], model: Model, manifest: Mapping[str, Any]
) -> Exported:
    # A layout of JSON rows names columns that some row might have had.
    there = pq.read_schema(io.BytesIO(store.read(files[0]))).names
    layouts = {_layout(Dialect.from_dict(file["columns"]), there) for file in manifest["input"]["files"]}
    if len(layouts) != 1:
        raise ConfigError(f"--for {trainer}: the files of the input hold conversations in {len(layouts)} layouts; "
                          "curate and export them apart")  # fmt: skip
    [dialect] = layouts
    if dialect.encoded:
        raise ConfigError(
            f"--for {trainer}: column {dialect.encoded[0]} holds turns as JSON text; make them lists first"
        )
    text = Text(folder.path(), dialect, there, manifest.get("json_columns", []))
    configs = for_text(trainer, text, model)
    progress = Progress("export", len(files), unit="files", brief=True)
    for file in files:
        folder.write(f"{DATA}/{file.name.removeprefix(f'{KEPT}/')}", store.read(file))
        progress.advance(1)
    progress.finish()
    return Exported(manifest["counts"]["kept"], _written(folder, configs))


def _messages(trainer: str, folder: Store, kept: Kept) -> Exported:
    if trainer == TORCHTUNE:
        _check_for_torchtune(kept)
    rows = left_out = 0
    progress = Progress("export", len(kept.files), unit="files", brief=True)
    for file in kept.files:
        lines = []
        for where, conversation in kept.conversations(file):
            if conversation is None:
                left_out += 1
            else:
                lines.append(line(where, conversation))
        if lines:
            folder.write(f"{DATA}/{os.path.basename(file.name).removesuffix('.parquet')}.jsonl", b"".join(lines))
        rows += len(lines)
        progress.advance(1)
    progress.finish()
    if not rows:
        raise ConfigError(f"{kept.store.path(KEPT)} has no turn that is trained on; there is nothing to write")
    texts = for_messages(trainer, folder.path(DATA))
    return Exported(rows, _written(folder, texts) if texts else DATA, left_out)


def _check_for_torchtune(kept: Kept) -> None:
    """ConfigError, before anything is written, for the first row that torchtune would not read as the run has."""
    progress = Progress("check", len(kept.files), unit="files", brief=True)
    for file in kept.files:
        for where, conversation in kept.conversations(file):
            why = None if conversation is None else unlike_torchtune(conversation)
            if why is not None:
                raise ConfigError(f"--for torchtune: {where} {why}; use --for trl or axolotl, or take such rows out")
        progress.advance(1)
    progress.finish()
