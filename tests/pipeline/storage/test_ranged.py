"""Reading objects by ranges: exact bytes, few requests, bounded memory, and nothing short is taken for whole."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.pipeline.errors import StorageError
from tamis.pipeline.storage import ranged, retrying
from tamis.pipeline.storage.ranged import ObjectFile, ObjectStream, info_of, open_stream, read_range, read_whole

PART = 1000


class Objects(MemoryFileSystem):  # type: ignore[misc]
    """Objects in memory, behind a storage that can answer badly. gets: the ranges asked for."""

    protocol = "objects"
    store: ClassVar[dict[str, Any]] = {}
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.gets: list[tuple[int | None, int | None]] = []
        self.short = 0
        self.heads_refused = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        self.gets.append((start, end))
        data: bytes = super().cat_file(path, start, end)
        if self.short:
            self.short -= 1
            return data[: len(data) // 2]
        if start == 0 and not data:
            raise OSError(22, "The requested range cannot be satisfied")
        return data

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if self.heads_refused:
            self.heads_refused -= 1
            raise PermissionError("Forbidden")
        found: dict[str, Any] = super().info(path)
        return found


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    monkeypatch.setattr(ranged, "PART_BYTES", PART)
    monkeypatch.setattr(retrying.time, "sleep", lambda _: None)
    filesystem = Objects()
    yield filesystem
    Objects.store.clear()


def put(objects: Objects, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    objects.pipe_file("/a", data)
    return data


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART, 7 * PART + 3])
def test_whole_objects(objects: Objects, size: int) -> None:
    data = put(objects, size)
    assert read_whole(objects, "/a") == data
    assert len(objects.gets) == 1
    with ObjectStream(objects, "/a", size) as stream:
        assert stream.read() == data


def test_a_small_object_is_one_request(objects: Objects) -> None:
    put(objects, PART // 2)
    read_whole(objects, "/a")
    assert objects.gets == [(0, None)]


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 5 * PART), reads=st.lists(st.integers(0, 2 * PART), max_size=12), data=st.data())
def test_streams_and_files_read_what_is_there(size: int, reads: list[int], data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranged, "PART_BYTES", PART)
        objects = Objects()
        naive = io.BytesIO(put(objects, size))
        stream = ObjectStream(objects, "/a", size)
        for count in reads:
            assert stream.peek(5) == naive.getvalue()[naive.tell() :][: len(stream.peek(5))]
            assert stream.read(count) == naive.read(count)
            assert stream.tell() == naive.tell()
        file = ObjectFile(objects, "/a", size)
        held = sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2)))
        file.prefetch([(held[0], held[1])])
        for count in reads:
            place = data.draw(st.integers(0, size))
            naive.seek(place)
            file.seek(place)
            assert file.read(count) == naive.read(count)
            assert file.tell() == naive.tell()


def test_what_was_fetched_ahead_is_not_asked_for_again(objects: Objects) -> None:
    data = put(objects, 5 * PART)
    file = ObjectFile(objects, "/a", len(data))
    file.prefetch([(100, 200), (300, 400)])
    before = len(objects.gets)
    for start, stop in ((100, 200), (120, 130), (300, 301)):
        file.seek(start)
        assert file.read(stop - start) == data[start:stop]
    assert len(objects.gets) == before
    file.seek(150)
    assert file.read(100) == data[150:250]
    assert len(objects.gets) == before + 1


def test_a_stream_holds_a_few_parts_only(objects: Objects) -> None:
    put(objects, 50 * PART)
    stream = ObjectStream(objects, "/a", 50 * PART)
    stream.read(1)
    stream._pool.shutdown(wait=True)  # all that it has asked for is here now
    assert len(objects.gets) <= ranged._AHEAD + 2


def test_a_body_that_is_cut_off_is_asked_for_again(objects: Objects) -> None:
    data = put(objects, 3 * PART)
    objects.short = 2
    assert read_range(objects, "/a", 10, 2500) == data[10:2500]


def test_bodies_that_are_always_cut_off_are_not_waited_for_for_ever(
    objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(objects, 2 * PART)
    objects.short = 1000
    monkeypatch.setattr(retrying, "PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(retrying, "FIRST_PATIENCE_SECONDS", 0.0)
    with pytest.raises(StorageError, match="500 bytes came of 1000"):
        read_range(objects, "/a", 500, 1500)


def test_an_object_that_has_become_shorter_is_an_error_after_a_few_tries(objects: Objects) -> None:
    put(objects, PART)
    with pytest.raises(OSError, match="the object has become shorter"):
        read_range(objects, "/a", 500, 1500)
    assert len(objects.gets) == ranged._CUT_OFF + 1


def test_throttling_that_looks_like_a_refusal_is_waited_for(objects: Objects) -> None:
    put(objects, 5)
    objects.heads_refused = 3
    assert info_of(objects, "/a")["size"] == 5
    put(objects, 0)  # of which no range can be had
    objects.heads_refused = 3
    assert info_of(objects, "/a")["size"] == 0


def test_a_real_refusal_is_none_to_wait_for(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    put(objects, 5)
    objects.heads_refused = 1000

    def denied(*_: Any, **__: Any) -> bytes:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(objects, "cat_file", denied)
    with pytest.raises(PermissionError, match="Access Denied"):
        info_of(objects, "/a")
    assert objects.heads_refused == 999


def test_a_local_file_is_a_file(tmp_path: Any) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    local = fsspec.filesystem("file")
    with open_stream(local, str(tmp_path / "a")) as stream:
        assert stream.read() == b"0123456789"
    assert read_range(local, str(tmp_path / "a"), 2, 5) == b"234"
    with pytest.raises(OSError, match="bytes came of"):
        read_range(local, str(tmp_path / "a"), 8, 12)
