"""A corpus that is in memory, as Parquet files: what a run reads, and what names it.

A file's name is the digest of its content, so that the same data give the same files, which are not written again: a
call that is repeated finds its finished run, or goes on with it. Arrow stays Arrow, with types and metadata. Python
objects, in a list or in a frame, become what the same rows would be in JSON Lines (operators/conversation/schema.py):
nothing is rounded, cut, added or dropped, and what cannot be kept is an error. The data are read and not changed.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tamis.operators.conversation.schema import JSON, digit_notes, infer_rows, to_table, too_wide
from tamis.pipeline.errors import ConfigError, InputError, StorageError, error_text
from tamis.pipeline.storage.store import Store

KINDS = (
    "a path, glob or URL (or a list of these), a datasets.Dataset, a pandas or polars DataFrame, an Arrow table, or a "
    "list of dicts"
)

_GROUP_ROWS = 2048
"""Rows of a row group: as many as a shard has, so that a shard is read without its neighbours."""
_FILE_BYTES = 256 << 20
_DIGEST = 16
_DEEPEST = 200
_INDEX = "__index_level_0__"
"""What pandas itself calls the column of an index without a name."""


@dataclass(frozen=True)
class Files:
    """paths: of the files, in the order of the rows. notes: what there is to know about them."""

    paths: list[str]
    notes: list[str]


def addresses(data: Any) -> list[str] | None:
    """The paths, globs or URLs that `data` is; None if it is the rows themselves."""
    if isinstance(data, str | os.PathLike):
        return [_path(data)]
    if isinstance(data, list | tuple) and data and all(isinstance(item, str | os.PathLike) for item in data):
        return [_path(item) for item in data]
    return None


def _path(item: str | os.PathLike[str]) -> str:
    path = os.fspath(item)
    return os.path.expanduser(path) if "://" not in path else path


def check_kind(data: Any, name: str = "data") -> None:
    """ConfigError unless `data` is one of KINDS. name: of the argument, for messages. Looks at no row."""
    if addresses(data) is not None or isinstance(data, pa.Table | pa.RecordBatch):
        return
    of = type(data).__name__
    if _is(data, "datasets", "DatasetDict") or _is(data, "datasets", "IterableDatasetDict"):
        raise ConfigError(f"{name}: a {of} holds several splits ({', '.join(map(str, data))}); give one, as data[...]")
    if _is(data, "datasets", "IterableDataset"):
        raise ConfigError(
            f"{name}: an IterableDataset has no rows of its own to come back to; give the address that it streams from "
            "(hf://datasets/ORG/NAME, and input={'split': ...}), or a Dataset"
        )
    if _is(data, "polars", "LazyFrame"):
        raise ConfigError(f"{name}: a LazyFrame has no rows yet; give what its collect() returns")
    if _is(data, "datasets", "Dataset") or _is_frame(data):
        return
    if isinstance(data, list | tuple):
        strangers = sorted({type(item).__name__ for item in data if not isinstance(item, Mapping)})
        if strangers:
            raise ConfigError(f"{name}: a list of dicts (the rows), or of paths, is meant; it holds {strangers[0]}")
        return
    advice = {"dict": "; of columns, pa.table(...) makes a table"}.get(of, "")
    advice = "; make a list of it" if hasattr(data, "__next__") else advice
    raise ConfigError(f"{name}: {KINDS} is meant, not {of}{advice}")


def check_rows(data: Any, name: str) -> None:
    """ConfigError unless `data` is rows in memory."""
    if addresses(data) is not None:
        raise ConfigError(f"{name}: one file is meant, or rows, not a list of texts")
    check_kind(data, name)


def written(data: Any, store: Store, name: str = "data", tell: Callable[[int], None] = lambda rows: None) -> Files:
    """The rows of `data` as Parquet files in `store`; those that are there already stay as they are. tell: called with
    the number of rows so far.

    Raises ConfigError for what is none of KINDS, InputError for rows that no file can hold, and StorageError.
    """
    check_rows(data, name)
    notes: list[str] = []
    paths = []
    try:
        for number, content in enumerate(_contents(_tables(data, name, notes), name, tell)):
            file = f"{number:05d}-{hashlib.sha256(content).hexdigest()[:_DIGEST]}.parquet"
            with storage_errors():
                if not (store.exists(file) and store.read(file) == content):
                    store.write(file, content)
            paths.append(store.path(file))
    except pa.ArrowException as error:
        # Its message may quote the data.
        raise InputError(f"{name}: Arrow cannot write it as Parquet ({type(error).__name__}); see its types") from None
    if not paths:
        raise InputError(f"{name}: holds no rows")
    return Files(paths, notes)


@contextmanager
def storage_errors() -> Iterator[None]:
    """StorageError for an error of the system, in the words of the command."""
    try:
        yield
    except OSError as error:
        where = f"{error.filename}: " if isinstance(error.filename, str) else ""
        raise StorageError(f"{where}{error_text(error)}; free space / check the storage, and call it again") from None


def _contents(tables: Iterator[pa.Table], name: str, tell: Callable[[int], None]) -> Iterator[bytes]:
    """Whole Parquet files. The same rows give the same bytes, however they lie in memory."""
    sink = io.BytesIO()
    writer: pq.ParquetWriter | None = None
    rows = 0
    for table in tables:
        if len(set(table.column_names)) < table.num_columns:
            twice = next(column for column in table.column_names if table.column_names.count(column) > 1)
            raise InputError(f"{name}: two columns are called {twice[:80]}; rename one")
        if table.num_rows and not table.num_columns:
            raise InputError(f"{name}: its rows have no columns")
        for start in range(0, table.num_rows, _GROUP_ROWS):
            writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd", write_page_checksum=True)
            # Anew, so that no trace is left of the buffers that it was sliced from.
            writer.write_table(table.slice(start, _GROUP_ROWS).combine_chunks(), row_group_size=_GROUP_ROWS)
            rows += min(_GROUP_ROWS, table.num_rows - start)
            tell(rows)
            if sink.tell() >= _FILE_BYTES:
                writer.close()
                yield sink.getvalue()
                sink, writer = io.BytesIO(), None
    if writer is not None:
        writer.close()
        yield sink.getvalue()


def _tables(data: Any, name: str, notes: list[str]) -> Iterator[pa.Table]:
    """The rows as tables of one schema. notes: gets what there is to know."""
    if isinstance(data, pa.RecordBatch):
        yield pa.Table.from_batches([data])
    elif isinstance(data, pa.Table):
        yield data
    elif _is(data, "datasets", "Dataset"):
        # Another view of the dataset, with all columns; in the order of its rows, whatever selects them.
        for batch in data.with_format("arrow").iter(batch_size=_GROUP_ROWS):
            yield batch.replace_schema_metadata(data.features.arrow_schema.metadata)
    elif _is(data, "polars", "DataFrame"):
        objects = [column for column, kind in data.schema.items() if str(kind) == "Object"]
        if objects:
            raise InputError(f"{name}: column {objects[0][:80]} is of type Object, which Arrow has not; cast it")
        yield data.to_arrow()
    elif _is_frame(data):
        yield _of_pandas(data, name, notes)
    else:
        yield _of_rows(data, name, notes)


def _is(data: Any, package: str, name: str) -> bool:
    """Whether it is of this class or of one made from it, without importing the package."""
    return any(kind.__module__.partition(".")[0] == package and kind.__name__ == name for kind in type(data).__mro__)


def _is_frame(data: Any) -> bool:
    return _is(data, "pandas", "DataFrame") or _is(data, "polars", "DataFrame")


# --- Python objects ---------------------------------------------------------------------------------------------------


class _NotJson(Exception):
    """Says what kind of value JSON does not have."""


def _of_rows(rows: Sequence[Mapping[str, Any]], name: str, notes: list[str]) -> pa.Table:
    plain: list[dict[str, Any]] = []
    for number, row in enumerate(rows):
        values = {}
        for key, value in row.items():
            if not isinstance(key, str):
                raise InputError(f"{name}[{number}]: a key is of type {type(key).__name__}; a column's name is a text")
            try:
                values[str.__str__(key)] = _plain(value)
            except _NotJson as found:
                raise InputError(
                    f"{name}[{number}]: {key[:80]} holds {found}, which JSON has not; make it a text, or give an Arrow "
                    "table, whose columns have types"
                ) from None
        plain.append(values)
    if wide := too_wide(plain):
        number, problem = next(iter(wide.items()))
        raise InputError(f"{name}[{number}]: {problem}")
    return _typed(plain, name, notes, nulls=True)


def _typed(rows: list[dict[str, Any]], name: str, notes: list[str], *, nulls: bool) -> pa.Table:
    """nulls: whether a null in an object is a value, as in JSON. In the structs of a table it counts as absent."""
    if not rows:
        return pa.table({})
    try:
        schema = infer_rows(rows)
        for place, field in enumerate(schema):
            if nulls and any(_null_inside(row.get(field.name)) for row in rows):
                schema = schema.set(place, field.with_type(JSON))
        table = to_table(rows, schema)
    except UnicodeEncodeError:
        raise InputError(f"{name}: a text holds half a character (a lone surrogate), which no file may") from None
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: these rows cannot be written as a table ({type(error).__name__})") from None
    notes.extend(digit_notes(schema))
    return table


def _null_inside(value: Any) -> bool:
    if isinstance(value, dict):
        return any(item is None or _null_inside(item) for item in value.values())
    return isinstance(value, list) and any(_null_inside(item) for item in value)


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of the value as `json.loads` would give it. _NotJson for what JSON has not."""
    if value is None or type(value) in (str, bool, int):
        return value
    if type(value) is float:
        if not math.isfinite(value):
            raise _NotJson(f"the number {value} (None means that there is none)")
        return value
    if depth > _DEEPEST:
        raise _NotJson("lists or dicts nested too deeply")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise _NotJson("a dict with keys that are no texts")
        return {str.__str__(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if _is(value, "numpy", "ndarray"):
        return _plain(value.tolist(), depth + 1)
    if _is(value, "numpy", "generic") and not isinstance(inner := value.item(), type(value)):
        return _plain(inner, depth + 1)
    if isinstance(value, str):  # of a class made from it, an enumeration say
        return str.__str__(value)
    if isinstance(value, int | float):
        return int(value) if isinstance(value, int) else _plain(float(value), depth)
    raise _NotJson(f"a value of type {type(value).__name__}")


# --- pandas -----------------------------------------------------------------------------------------------------------


def _of_pandas(frame: Any, name: str, notes: list[str]) -> pa.Table:
    """A frame's columns by their types; those of Python objects as JSON has them. An index that is not 0, 1, 2, ... is
    a column, too. NaN, NaT and NA are null, as pandas means them."""
    import pandas as pd

    columns: dict[str, Any] = {}
    index = frame.index
    if isinstance(index, pd.MultiIndex) or isinstance(frame.columns, pd.MultiIndex):
        raise InputError(f"{name}: the frame has an index of several levels; reset_index() makes columns of them")
    given = [(label, frame.iloc[:, place]) for place, label in enumerate(frame.columns)]
    if not (isinstance(index, pd.RangeIndex) and (index.start, index.step, index.name) == (0, 1, None)):
        given.append((_INDEX if index.name is None else index.name, index.to_series()))
    for label, series in given:
        if not isinstance(label, str):
            raise InputError(
                f"{name}: a column is called {str(label)[:80]}, of type {type(label).__name__}; a column's name is a "
                "text (frame.rename(columns=str))"
            )
        if label in columns:
            raise InputError(f"{name}: two columns, or a column and the index, are called {label[:80]}; rename one")
        columns[label] = _column(series, label, name, notes)
    return pa.table(columns)


def _column(series: Any, label: str, name: str, notes: list[str]) -> Any:
    try:
        if series.dtype == object:
            return _objects(series, label, name, notes)
        return pa.array(series, from_pandas=True)
    except _NotJson as found:
        raise InputError(f"{name}: column {label[:80]} holds {found}, which JSON has not; convert it") from None
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # their messages may quote the data
        kinds = sorted({type(value).__name__ for value in series})
        raise InputError(
            f"{name}: column {label[:80]} holds what no column of a table can ({', '.join(kinds[:5])}); convert it"
        ) from None


def _objects(series: Any, label: str, name: str, notes: list[str]) -> Any:
    values = [None if _missing(value) else value for value in series]
    try:
        rows = [{label: _plain(value)} for value in values]
    except _NotJson:
        if any(isinstance(value, Mapping | list | tuple) or _is(value, "numpy", "ndarray") for value in values):
            raise
        return pa.array(values)  # dates, say, or bytes: of one type, or an error
    return _typed(rows, name, notes, nulls=False).column(0)


def _missing(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return True
    return _is(value, "pandas", "NAType") or _is(value, "pandas", "NaTType")
