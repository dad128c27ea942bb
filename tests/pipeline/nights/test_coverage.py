"""Which files are new: every case of docs/nights.md, and properties over random histories."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.nights.coverage import Entry, Sorted, sort_files, worth_hashing

TONIGHT = "2024-11-29"


def file(name: str, content: str = "", identity: str = "1") -> SourceFile:
    """A file whose size is that of its content. The fields that nights do not look at are the same for all."""
    return SourceFile(f"/in/{name}", name, "jsonl", None, len(content), identity)


class Disk:
    """What the files hold, and which of them were read."""

    def __init__(self, **contents: str) -> None:
        self.contents = {f"/in/{name}": content for name, content in contents.items()}
        self.read: list[str] = []

    def sha256(self, file: SourceFile) -> str:
        self.read.append(file.name)
        return f"sha of {self.contents[file.url]}"

    def sort(self, files: list[SourceFile], curated: list[Entry]) -> Sorted:
        return sort_files(files, curated, self.sha256, TONIGHT)


def entry(name: str, content: str, run: str = "n1", identity: str = "1", **other: object) -> Entry:
    return Entry(f"/in/{name}", len(content), identity, f"sha of {content}", run, **other)  # type: ignore[arg-type]


def names(twins: object) -> list[tuple[str, str]]:
    return [(twin.file.name, twin.entry.run) for twin in twins]  # type: ignore[attr-defined]


def test_a_first_night_takes_everything_and_reads_nothing() -> None:
    disk = Disk()
    found = disk.sort([file("a", "x"), file("b", "xx")], [])
    assert [each.name for each in found.new] == ["a", "b"]
    assert disk.read == []


def test_what_a_night_has_is_covered_by_it_and_is_not_read() -> None:
    disk = Disk()
    found = disk.sort([file("a", "x"), file("b", "yy")], [entry("a", "x", "n1"), entry("b", "yy", "n2")])
    assert names(found.covered) == [("a", "n1"), ("b", "n2")]
    assert (found.new, disk.read) == ((), [])


def test_a_late_file_for_an_old_night_and_those_of_a_skipped_night_are_just_new() -> None:
    found = Disk().sort([file("27/late", "xyz"), file("28/a", "x"), file("29/a", "xy")], [entry("27/a", "abcd")])
    assert [each.name for each in found.new] == ["27/late", "28/a", "29/a"]


def test_a_file_that_grew_has_changed_since_the_night_that_has_it() -> None:
    disk = Disk()
    found = disk.sort([file("a", "x and more", "2")], [entry("a", "x", "n1"), entry("b", "zzz", "n2")])
    assert names(found.changed) == [("a", "n1")]
    assert (found.new, disk.read) == ((), [])


def test_a_file_of_the_same_size_with_other_bytes_has_changed() -> None:
    found = Disk(a="y").sort([file("a", "y", "2")], [entry("a", "x")])
    assert names(found.changed) == [("a", "n1")]


def test_a_file_that_was_only_touched_is_covered() -> None:
    disk = Disk(a="x")
    found = disk.sort([file("a", "x", "2")], [entry("a", "x")])
    assert names(found.touched) == [("a", "n1")]
    assert (found.new, found.changed, disk.read) == ((), (), ["a"])


def test_a_touched_file_whose_night_took_no_hash_counts_as_changed() -> None:
    found = Disk(a="x").sort([file("a", "x", "2")], [replace(entry("a", "x"), sha256="")])
    assert names(found.changed) == [("a", "n1")]


def test_a_file_delivered_twice_is_seen_by_its_bytes() -> None:
    disk = Disk(b="x")
    found = disk.sort([file("a", "x"), file("b", "x", "7")], [entry("a", "x")])
    assert names(found.duplicates) == [("b", "n1")]
    assert found.duplicates[0].entry.url == "/in/a"
    assert (found.new, disk.read) == ((), ["b"])


def test_only_files_of_the_same_size_are_read() -> None:
    disk = Disk(b="y", c="zz")
    found = disk.sort([file("b", "y"), file("c", "zz")], [entry("a", "x")])
    assert [each.name for each in found.new] == ["b", "c"]
    assert disk.read == ["b"]


def test_what_is_read_beforehand_is_what_only_the_bytes_can_tell() -> None:
    curated = [entry("a", "x"), entry("b", "yy"), entry("c", "zzz")]
    files = [file("a", "x"), file("b", "yy", "2"), file("c", "zz", "2"), file("d", "x"), file("e", "12345")]
    assert [each.name for each in worth_hashing(files, curated)] == ["b", "d"]
    assert [each.name for each in worth_hashing([file("f", "new"), file("g", "old")], [])] == ["f", "g"]


def test_of_two_new_files_with_the_same_bytes_the_first_is_curated() -> None:
    found = Disk(a="x", b="x", c="y").sort([file("a", "x"), file("b", "x"), file("c", "y")], [])
    assert [each.name for each in found.new] == ["a", "c"]
    assert names(found.duplicates) == [("b", TONIGHT)]


def test_a_duplicate_stays_known_and_is_new_once_it_holds_something_else() -> None:
    """Nothing of it was curated under its own name, so nothing would be there twice."""
    curated = [entry("a", "x"), entry("b", "x", own=False)]
    disk = Disk(b="other")
    assert names(disk.sort([file("b", "x")], curated).covered) == [("b", "n1")]
    assert [each.name for each in disk.sort([file("b", "other", "2")], curated).new] == ["b"]


def test_a_file_that_moved_is_a_duplicate_of_what_it_was() -> None:
    found = Disk(archive="x").sort([file("archive", "x")], [entry("inbox", "x")])
    assert names(found.duplicates) == [("archive", "n1")]


def test_a_file_that_changed_and_was_curated_again_is_covered_in_both_forms() -> None:
    curated = [entry("a", "x", "n1"), entry("a", "xx", "n2", "2")]
    assert names(Disk().sort([file("a", "xx", "2")], curated).covered) == [("a", "n2")]
    assert names(Disk().sort([file("a", "x", "1")], curated).covered) == [("a", "n1")]
    assert names(Disk().sort([file("a", "xxx", "3")], curated).changed) == [("a", "n2")]


def test_a_storage_without_identities_is_asked_for_the_bytes() -> None:
    curated = [entry("a", "x", identity=""), entry("b", "y", identity="")]
    found = Disk(a="x", b="z").sort([file("a", "x", ""), file("b", "z", "")], curated)
    assert names(found.touched) == [("a", "n1")]
    assert names(found.changed) == [("b", "n1")]


def test_a_possible_second_delivery_that_no_hash_can_tell_is_named() -> None:
    found = Disk(b="x").sort([file("b", "x")], [replace(entry("a", "x"), sha256="")])
    assert [each.name for each in found.new] == ["b"]
    assert names(found.unsure) == [("b", "n1")]


contents = st.dictionaries(st.sampled_from("abcdef"), st.text("xy", min_size=1, max_size=2), max_size=6)


@given(st.lists(contents, min_size=1, max_size=5), st.booleans())
def test_nights_add_up(history: list[dict[str, str]], with_identity: bool) -> None:
    """Whatever comes, goes and changes: each night sorts every file once, no content is curated twice, and the second
    look at the same listing finds nothing new. Changed files are curated again here."""
    curated: list[Entry] = []
    rows: list[str] = []
    for number, here in enumerate(history):
        disk = Disk(**here)
        files = [file(name, text, text if with_identity else "") for name, text in sorted(here.items())]
        found = disk.sort(files, curated)
        kinds = (found.new, *([t.file for t in twins] for twins in (found.covered, found.touched, found.duplicates)))
        beforehand = worth_hashing(files, curated)
        assert set(disk.read) <= {each.name for each in beforehand}
        hashed = [replace(each, sha256=f"sha of {here[each.name]}") if each in beforehand else each for each in files]
        second_disk = Disk(**here)
        assert [each.name for each in second_disk.sort(hashed, curated).new] == [each.name for each in found.new]
        assert second_disk.read == []
        seen = [each.name for kind in kinds for each in kind] + [twin.file.name for twin in found.changed]
        assert sorted(seen) == sorted(here)
        assert len(set(disk.read)) == len(disk.read)
        new = [each.name for each in found.new]
        assert not {here[name] for name in new} & set(rows)
        again = [twin.file.name for twin in found.changed]
        rows += [here[name] for name in [*new, *again]]
        run = f"n{number}"
        curated += [entry(n, here[n], run, here[n] if with_identity else "") for n in [*new, *again]]
        curated += [Entry.of(t.file, t.entry.run, t.entry.sha256) for t in found.touched]
        curated += [replace(Entry.of(t.file, t.entry.run, t.entry.sha256), own=False) for t in found.duplicates]
        second = disk.sort(files, curated)
        assert (second.new, second.changed, second.duplicates) == ((), (), ())
    assert set(rows) == {text for here in history for text in here.values()}


@pytest.mark.parametrize("broken", [{}, {"url": "/a", "bytes": "many", "identity": ""}, {"url": "/a", "bytes": 1}])
def test_what_is_no_entry_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, ValueError)):
        Entry.from_dict(broken, "n1")


def test_an_entry_survives_a_manifest() -> None:
    assert Entry.from_dict(entry("a", "x").to_dict(), "n1") == entry("a", "x")
