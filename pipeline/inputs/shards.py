"""Shards: ranges of rows of input files, the unit of work and of resuming. Made by the plan, read by any worker.

Reading a shard always gives exactly its rows, in order; an unreadable row is still a row, with its problem.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from tamis.operators.problems import RowProblem
from tamis.operators.references import safe_path, unsafe_path
from tamis.pipeline.errors import InputError, StorageError, TooLargeError, error_text
from tamis.pipeline.inputs import text_files
from tamis.pipeline.inputs.arrow_types import fitted, fitting_schema
from tamis.pipeline.inputs.columnar import ColumnarFile, TooManyBytes, footer_of, read_head, read_rows
from tamis.pipeline.inputs.discovery import identity_of
from tamis.pipeline.inputs.encodings import is_utf8_after_all
from tamis.pipeline.inputs.files import TEXT_FORMATS, SourceFile
from tamis.pipeline.inputs.layouts import AS_NAMED, Layout, remark
from tamis.pipeline.inputs.partitions import fields_of, values_of, without
from tamis.pipeline.inputs.plain_values import converters, made_plain
from tamis.pipeline.inputs.row_limits import cut_text
from tamis.pipeline.inputs.spans import Span
from tamis.pipeline.inputs.text_files import TextFile
from tamis.pipeline.storage.addresses import is_local, open_filesystem, scheme_of
from tamis.pipeline.storage.ranged import info_of

SHARD_BYTES = 64 << 20
"""The most bytes of input per shard, so that rows of megabytes do not fill a worker's memory."""

HEAD_ROWS = 64
"""How many rows of each file the plan reads."""

CORPUS = "corpus"

SHIPPED = {
    **{f"{method}.unsafe": unsafe_path for method in ("larf", "contrast", "matching", "compliance", "csa")},
    **{f"{method}.safe": safe_path for method in ("larf", "compliance", "csa")},
    "toss.harmful": unsafe_path,
}
"""role -> path on this machine of the reference set that is shipped with tamis."""

_PINNED = re.compile(r"@[0-9a-f]{40}(/|$)")
"""A commit in an address on the hub. A pinned file cannot change, and checking would cost one request per shard."""

_SHIPPED_SCHEME = "tamis-references:"


@dataclass(frozen=True)
class Shard:
    """Rows start_row..stop_row of one file. role: CORPUS, or `role_of` the reference set that the file belongs to.
    chosen: the only rows of these that count, by their numbers in the file, ascending; none: all do."""

    index: int
    role: str
    file: SourceFile
    header: tuple[str, ...]
    span: Span
    dialect: Mapping[str, Any]
    id: str = field(default="")
    layout: Layout = AS_NAMED
    chosen: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        return len(self.chosen) or self.rows_read

    @property
    def rows_read(self) -> int:
        """Rows that must be read for those that count."""
        return self.span.stop_row - self.span.start_row

    def row_at(self, place: int) -> int:
        """The number in its file of the row at this place among those that count."""
        return self.chosen[place] if self.chosen else self.span.start_row + place

    @property
    def name(self) -> str:
        """Base name of all files of this shard; the names sort in corpus order."""
        return f"{self.index:06d}-{self.id}"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Shard:
        tree = json.loads(text)
        tree["file"] = SourceFile(**tree["file"])
        tree["span"] = Span(**tree["span"])
        tree["header"] = tuple(tree["header"])
        tree["layout"] = Layout(**tree["layout"])
        tree["chosen"] = tuple(tree["chosen"])
        return cls(**tree)


@dataclass(frozen=True)
class Scanned:
    """The result of scanning a file. schema: None for JSON, whose types are known only after all rows were read.
    head: the readable rows among the first ones. head_problems: the problems of the others, and problem_rows their
    numbers. layout: of a text file. notes: what the plan should say about how the file is read."""

    file: SourceFile
    header: tuple[str, ...]
    spans: tuple[Span, ...]
    schema: pa.Schema | None
    head: tuple[Mapping[str, Any], ...]
    head_problems: tuple[RowProblem, ...] = ()
    problem_rows: tuple[int, ...] = ()
    layout: Layout = AS_NAMED
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        return self.spans[-1].stop_row if self.spans else 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column; of a JSON file, those of its head."""
        return tuple(
            self.schema.names if self.schema is not None else dict.fromkeys(k for row in self.head for k in row)
        )

    def first_rows(self) -> list[tuple[int, Mapping[str, Any] | RowProblem]]:
        """The rows of the head in order, the unreadable ones too, each with its number."""
        bad = dict(zip(self.problem_rows, self.head_problems, strict=True))
        good = iter(self.head)
        return [(n, bad[n] if n in bad else next(good)) for n in range(len(self.head) + len(bad))]


@dataclass(frozen=True)
class Row:
    """One row as read: its columns or its problem, and its place. offset: byte in the unpacked file, for text files.
    raw: the row's text, for text files; only the beginning if the row is too large. size: bytes of the whole text."""

    number: int
    value: Mapping[str, Any] | RowProblem
    offset: int | None
    raw: bytes | None
    size: int | None = None

    def feed(self, digest: Any) -> None:
        """Update a digest with everything that was read of this row."""
        value = self.value.code if isinstance(self.value, RowProblem) else self.value
        data = self.raw if self.raw is not None else json.dumps(value, default=str).encode()
        digest.update(f"{len(data)}:{self.size}:".encode())
        digest.update(data)

    def raw_text(self) -> str:
        """The row for quarantine: as it stands in the file, or as JSON if the file is not text; cut if it is long."""
        if self.raw is not None:
            return cut_text(self.raw, self.size)
        value = {} if isinstance(self.value, RowProblem) else self.value
        return cut_text(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace"))


def role_of(method: str, source: str) -> str:
    """The role of one method's reference set: two methods may both name a source "safe" and mean different files. With
    CORPUS, that of the rows of the corpus that were drawn for the method."""
    return f"{method}.{source}"


def is_drawn(role: str) -> bool:
    """Whether the role is that of rows of the corpus that were drawn for a method."""
    return role.endswith(f".{CORPUS}")


def choose(shard: Shard, role: str, chosen: Sequence[int], index: int) -> Shard:
    """Some rows of a shard, by their numbers in its file, as a shard of this role with this index."""
    key = json.dumps([shard.id, role, *chosen])
    return replace(
        shard, index=index, role=role, id=hashlib.sha256(key.encode()).hexdigest()[:16], chosen=tuple(chosen)
    )


def scan(
    file: SourceFile,
    shard_rows: int,
    options: Mapping[str, Any],
    head_rows: int = HEAD_ROWS,
    tell: Callable[[int], None] | None = None,
) -> Scanned:
    """Find the rows of `file`; there may be none. Raises InputError with the file and what is wrong with it as a whole.

    tell: called with the number of bytes read from a text file; every byte counts once.
    """
    try:
        if file.format in TEXT_FORMATS:
            return _scan_text(file, shard_rows, options, head_rows, tell)
        return _scan_columnar(file, shard_rows, options, head_rows)
    except (ValueError, OSError, EOFError, pa.ArrowException) as error:
        raise InputError(f"{file.name}: {_broken(file, error)}") from None


def make_shards(scanned: Scanned, role: str, dialect: Mapping[str, Any], first_index: int) -> list[Shard]:
    """The shards of one file. Ids depend only on the file's name, size and identity, on how it is read, the role and
    the row range."""
    shards = []
    for number, span in enumerate(scanned.spans):
        key: list[Any] = [
            role,
            scanned.file.name,
            scanned.file.bytes,
            scanned.file.identity,
            span.start_row,
            span.stop_row,
        ]
        if scanned.file.partition or scanned.layout != AS_NAMED:
            key += [scanned.file.partition, asdict(scanned.layout)]
        if scanned.file.encoding:
            key.append(scanned.file.encoding)
        shard_id = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        shards.append(
            Shard(first_index + number, role, scanned.file, scanned.header, span, dialect, shard_id, scanned.layout)
        )
    return shards


def read(shard: Shard, options: Mapping[str, Any], columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of `shard`, in order, also those that were not chosen. columns: those that the caller needs; others may
    be missing in the rows.

    Raises InputError if the file vanished or is not the one that was planned, TooLargeError if the decoded rows of a
    Parquet or Arrow file exceed columnar.READ_BYTES.
    """
    shard = _on_this_node(shard)
    if shard.file.format in TEXT_FORMATS:
        with _unchanged(shard, options):
            text = _text(shard.file, options, shard.header, shard.layout)
            records = text_files.read_records(text, shard.span)
        named = values_of(shard.file.partition)
        rows = [
            Row(shard.span.start_row + i, _with(record.value, named), record.offset, record.raw, record.size)
            for i, record in enumerate(records)
        ]
    else:
        rows = rows_of(read_table(shard, options, columns), shard.span.start_row, strict=columns is not None)
    if len(rows) != shard.rows_read:
        raise InputError(f"{shard.file.name}: changed while it was read; run again to plan it anew")
    return rows


def read_table(shard: Shard, options: Mapping[str, Any], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet or Arrow shard, with unchanged metadata and the types of `fitting_schema`, and the columns
    that its folders name. Raises as `read`."""
    file, span, named = _columnar(shard.file, options), shard.span, values_of(shard.file.partition)
    with _unchanged(shard, options):
        try:
            stored = None if columns is None else [name for name in columns if name not in named]
            table = read_rows(file, span.start_row, span.stop_row, stored)
        except TooManyBytes as error:
            rows = f"{shard.file.name}, rows {span.start_row:,} to {span.stop_row - 1:,}"
            raise TooLargeError(f"{rows}: {error}", str(error)) from None
    if table.num_rows != shard.rows_read:
        raise InputError(f"{shard.file.name}: changed while it was read; run again to plan it anew")
    table = _beside(fitted(table), shard.file.partition, columns)
    return table if columns is None else table.select(list(columns))


def _beside(table: pa.Table, partition: str, columns: Sequence[str] | None) -> pa.Table:
    """The table with the columns that the folders of its file name."""
    values = values_of(partition)
    for column in fields_of(partition):
        if columns is None or column.name in columns:
            constant = pa.repeat(pa.scalar(values[column.name], column.type), table.num_rows)
            table = table.append_column(column, constant)
    return table


def rows_digest(rows: Iterable[Row]) -> str:
    """sha256 of the rows as read, in order: it shows whether two stages read the same rows of a shard."""
    digest = hashlib.sha256()
    for row in rows:
        row.feed(digest)
    return digest.hexdigest()


def shipped_file(role: str, file: SourceFile) -> SourceFile:
    """A reference set that is shipped with tamis, identified by role and content, so that each node reads its own
    copy."""
    return replace(file, url=f"{_SHIPPED_SCHEME}{role}", identity=_content_hash(file.url))


def is_shipped(file: SourceFile) -> bool:
    """Whether the file was made by `shipped_file`; its identity is then the sha256 of its content."""
    return file.url.startswith(_SHIPPED_SCHEME)


def _on_this_node(shard: Shard) -> Shard:
    """The shard with a path that this machine can open. InputError if another version of tamis is installed here."""
    file = shard.file
    if not is_shipped(file):
        return shard
    path = str(SHIPPED[file.url.removeprefix(_SHIPPED_SCHEME)]())
    if _content_hash(path) != file.identity:
        raise InputError(f"{file.name}: the references of tamis differ on this node; install one version everywhere")
    return replace(shard, file=replace(file, url=path, identity=str(os.stat(path).st_mtime_ns)))


def _content_hash(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextmanager
def _unchanged(shard: Shard, options: Mapping[str, Any]) -> Iterator[None]:
    """Around a read: InputError if the file is not the one that was planned, or cannot be read. The check after the
    read is enough: rows from a file that changed meanwhile are discarded."""
    try:
        yield
    except StorageError:
        check_unchanged(shard, options)
        raise
    except (ValueError, OSError, pa.ArrowException) as error:
        check_unchanged(shard, options)
        raise _vanished(shard.file.name, error) from None
    check_unchanged(shard, options)


def check_unchanged(shard: Shard, options: Mapping[str, Any]) -> None:
    """InputError if the file is missing, or its size, etag or modification time differs from the plan."""
    if scheme_of(shard.file.url) == "hf" and _PINNED.search(shard.file.url):
        return
    filesystem, path = open_filesystem(shard.file.url, options)
    try:
        info = info_of(filesystem, path)
        identity = str(os.stat(path).st_mtime_ns) if is_local(filesystem) else identity_of(info)
    except OSError as error:
        raise _vanished(shard.file.name, error) from None
    if identity != shard.file.identity or int(info["size"]) != shard.file.bytes:
        raise InputError(f"{shard.file.name}: changed since the plan was made; run again with a new output folder")


def _vanished(path: str, error: BaseException) -> InputError:
    return InputError("the input cannot be read any more", [f"{path}: {error_text(error)}"])


def _with(value: dict[str, Any] | RowProblem, named: Mapping[str, Any]) -> Mapping[str, Any] | RowProblem:
    """A row with the columns that the folders of its file name; a column of its own counts more."""
    return value if isinstance(value, RowProblem) or not named else value | {
        name: found for name, found in named.items() if name not in value}  # fmt: skip


def _text(file: SourceFile, options: Mapping[str, Any], header: tuple[str, ...], layout: Layout) -> TextFile:
    return TextFile(
        file.url, file.format, file.compression, dict(options), header, file.identity, layout, file.encoding
    )


def _columnar(file: SourceFile, options: Mapping[str, Any]) -> ColumnarFile:
    return ColumnarFile(file.url, file.format, dict(options), file.identity, file.bytes)


def _scan_text(
    file: SourceFile,
    shard_rows: int,
    options: Mapping[str, Any],
    head_rows: int,
    tell: Callable[[int], None] | None,
) -> Scanned:
    source = text_files.small_in_memory(_text(file, options, (), AS_NAMED), file.bytes)
    layout = text_files.examine(source, file.bytes, file.delimiter, file.quoting, file.field)
    try:
        text, spans = _rows_of_text(replace(source, layout=layout), shard_rows, tell)
    except ValueError:
        bare = replace(layout, quoted=False)
        if file.quoting or layout.delimiter != "\t" or not layout.quoted:
            raise
        # A quote that is out of place further on: the file may have no quoting at all.
        text, spans = _rows_of_text(replace(source, layout=bare), shard_rows, None)
        if not _all_have_fields(text, spans):
            raise
    records = text_files.read_records(text, spans[0], head_rows) if spans else []
    values = [_with(record.value, values_of(file.partition)) for record in records]
    notes = tuple(filter(None, [remark(text.layout, file.format, file.delimiter, file.quoting)]))
    if file.encoding and is_utf8_after_all((record.raw for record in records), file.encoding):
        notes = (*notes, f"seems to be UTF-8, and is read as {file.encoding} (input.encoding)")
    return Scanned(
        file, text.header, spans, text_schema(file, text.header), *sort_out(values), layout=text.layout, notes=notes
    )


def _rows_of_text(
    file: TextFile, shard_rows: int, tell: Callable[[int], None] | None
) -> tuple[TextFile, tuple[Span, ...]]:
    """The file with its header, and where its rows lie."""
    text = replace(file, header=text_files.csv_header(file)) if file.format in {"csv", "tsv"} else file
    return text, tuple(text_files.find_spans(text, shard_rows, SHARD_BYTES, tell=tell))


def _all_have_fields(text: TextFile, spans: Sequence[Span]) -> bool:
    """Whether every row of a CSV file has as many fields as its header."""
    return len(text.header) > 1 and all(
        not isinstance(record.value, RowProblem) or record.value.code != "malformed_csv"
        for span in spans
        for record in text_files.read_records(text, span)
    )


def text_schema(file: SourceFile, header: Sequence[str]) -> pa.Schema | None:
    """The schema of a text file. CSV has no types: every column stays text. None for JSON."""
    if not header:
        return None
    named = [column for column in fields_of(file.partition) if column.name not in header]
    return pa.schema([*((name, pa.string()) for name in header), *named])


def _scan_columnar(file: SourceFile, shard_rows: int, options: Mapping[str, Any], head_rows: int) -> Scanned:
    source = _columnar(file, options)
    footer = footer_of(source)
    step = shard_rows
    if footer.rows and footer.bytes / footer.rows * shard_rows > SHARD_BYTES:
        step = max(int(SHARD_BYTES * footer.rows / footer.bytes), 1)
    spans = tuple(Span(start, min(start + step, footer.rows), 0, 0) for start in range(0, footer.rows, step))
    schema, notes = fitting_schema(footer.schema)
    own = [name for name in values_of(file.partition) if name in schema.names]
    if own:
        file = replace(file, partition=without(file.partition, own))
        notes = (*notes, f"the folders name {', '.join(own)}, which the file has as a column; the column counts")
    for column in fields_of(file.partition):
        schema = schema.append(column)
    head = rows_of(_beside(fitted(read_head(source, head_rows)), file.partition, None), 0)
    return Scanned(file, (), spans, schema, *sort_out([row.value for row in head]), notes=notes)


def sort_out(
    values: Sequence[Mapping[str, Any] | RowProblem],
) -> tuple[tuple[Mapping[str, Any], ...], tuple[RowProblem, ...], tuple[int, ...]]:
    good = tuple(value for value in values if not isinstance(value, RowProblem))
    bad = {number: value for number, value in enumerate(values) if isinstance(value, RowProblem)}
    return good, tuple(bad.values()), tuple(bad)


def rows_of(table: pa.Table, start_row: int, *, strict: bool = False) -> list[Row]:
    """The rows of a table. start_row: the number of its first row in the file. strict: a value that cannot be made
    plain (see plain_values.py) is its row's problem."""
    try:
        values: list[Any] = table.to_pylist()
    except (UnicodeDecodeError, OverflowError):
        values = [_one(table.slice(i, 1)) for i in range(table.num_rows)]
    except pa.ArrowInvalid:  # a time zone that is not known here: its times as they are stored, in UTC
        naive = pa.schema([field.with_type(_without_zones(field.type)) for field in table.schema])
        if naive == table.schema:
            raise
        return rows_of(table.cast(naive), start_row, strict=strict)
    how = converters(table.schema)
    if how:
        values = [value if isinstance(value, RowProblem) else made_plain(value, how, strict) for value in values]
    return [Row(start_row + i, value, None, None) for i, value in enumerate(values)]


def _without_zones(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp(kind.unit)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_without_zones(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_zones(field.type)) for field in kind])
    return kind


def _one(row: pa.Table) -> dict[str, Any] | RowProblem:
    value = {}
    for name in row.column_names:
        try:
            value[name] = row.column(name)[0].as_py()
        except UnicodeDecodeError:
            return RowProblem("invalid_utf8", "a string of the row is not UTF-8")
        except OverflowError:  # a date outside Python's range; a conversation is never in such a column
            value[name] = str(row.column(name).cast(pa.string())[0])
    return value


def _broken(file: SourceFile, error: BaseException) -> str:
    text = error_text(error)
    if file.compression is not None and "runcated" in text:
        return f"the {file.compression} archive is cut off ({text}); copy it again"
    if isinstance(error, pa.ArrowNotImplementedError):
        return f"pyarrow cannot read this {file.format} file ({text})"
    if isinstance(error, pa.ArrowException) or (file.format not in TEXT_FORMATS and type(error) is not ValueError):
        return f"not a whole {file.format} file, cut off or damaged ({text})"
    return text
