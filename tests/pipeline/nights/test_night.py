"""What a night would do, over real folders: each case of docs/nights.md. No model is opened and nothing is curated; the
whole command runs in tests/e2e/test_nights.py."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.nights import night as nights
from tamis.pipeline.nights.coverage import Entry
from tamis.pipeline.nights.night import Night, curate_night, look, plan_night
from tamis.pipeline.nights.runs import Claim, Run, write_claim
from tamis.pipeline.run import lease
from tamis.pipeline.run.paths import INCOMPLETE, MANIFEST, RUN
from tamis.pipeline.storage.store import Store


class Place:
    """An input folder and a root, with the steps of a history."""

    def __init__(self, folder: Path) -> None:
        self.input, self.root = folder / "in", folder / "root"
        self.input.mkdir()

    def job(self, day: str, **settings: Any) -> Job:
        schedule = {"root": str(self.root), "date": day, **settings.pop("schedule", {})}
        tree = {"input": str(self.input), "model": "m", "method": "saft", "schedule": schedule}
        return load_job(None, {**tree, **settings})

    def deliver(self, name: str, text: str) -> Path:
        path = self.input / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def store(self, night: str) -> Store:
        return Store(str(self.root / night))

    def look(self, day: str, **settings: Any) -> Night:
        return look(self.job(day, **settings))

    def begin(self, day: str, **settings: Any) -> Night:
        """The night up to its claim, as a driver that is killed then leaves it."""
        found = self.look(day, **settings)
        files = nights.hashed(found.inputs.files, {})
        write_claim(self.store(found.name), [Entry.of(file, found.name) for file in files], found.facts)
        return found

    def finish(self, day: str, **settings: Any) -> Night:
        """The night with the manifest of a run over its files."""
        found = self.look(day, **settings)
        files = nights.hashed(found.inputs.files, {})
        self.manifest(found.name, files, {**found.facts, "empty": []}, created=f"{day}T01:30:00+00:00")
        return found

    def manifest(self, name: str, files: list[SourceFile], night: Mapping[str, Any] | None, created: str) -> None:
        listed = [{**Entry.of(file, name).to_dict(), "path": file.name} for file in files]
        facts: dict[str, Any] = {"complete": True, "created": created, "fingerprint": {}, "job": {}}
        self.store(name).write_facts(
            MANIFEST, {**facts, "input": {"files": listed}, **({} if night is None else {"night": dict(night)})}
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def new(night: Night) -> list[str]:
    return [file.name for file in night.inputs.files]


def said(night: Night) -> str:
    return "\n".join(night.inputs.notes)


def test_each_night_has_what_came_since_the_last_one(place: Place) -> None:
    place.deliver("27/a.jsonl", "{}")
    assert new(place.finish("2024-11-27")) == ["27/a.jsonl"]
    place.deliver("28/b.jsonl", "{ }")
    second = place.finish("2024-11-28")
    assert new(second) == ["28/b.jsonl"]
    assert [(twin.file.name, twin.entry.run) for twin in second.listing.covered] == [("27/a.jsonl", "2024-11-27")]
    assert second.inputs.notes == ()


def test_names_do_not_depend_on_what_else_lies_there(place: Place) -> None:
    """Else two rows of two nights would share a sample id."""
    one = place.deliver("27/a.jsonl", "{}")
    assert new(place.finish("2024-11-27")) == ["27/a.jsonl"]
    one.unlink()
    place.deliver("28/a.jsonl", "{ }")
    assert new(place.look("2024-11-28")) == ["28/a.jsonl"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("", "x/y/a.jsonl"),
        ("x", "y/a.jsonl"),
        ("x/*/*.jsonl", "y/a.jsonl"),
        ("**/*.jsonl", "x/y/a.jsonl"),
        ("x/y/a.jsonl", "a.jsonl"),
        ("x/y/[a]*", "a.jsonl"),
    ],
)
def test_names_begin_below_what_the_job_names(place: Place, path: str, name: str) -> None:
    place.deliver("x/y/a.jsonl", "{}")
    assert new(place.look("2024-11-27", input=f"{place.input}/{path}")) == [name]


def test_names_of_several_inputs_begin_below_all_of_them(place: Place) -> None:
    place.deliver("x/a.jsonl", "{}")
    place.deliver("y/a.jsonl", "{ }")
    assert new(place.look("2024-11-27", input=[f"{place.input}/x", f"{place.input}/y/*"])) == ["x/a.jsonl", "y/a.jsonl"]


@pytest.mark.parametrize(
    ("paths", "urls", "names"),
    [
        (["s3://one/in", "s3://two/in"], ["s3://one/in/a", "s3://two/in/a"], ["one/in/a", "two/in/a"]),
        (["s3://one/in/*", "/data/in"], ["s3://one/in/a"], ["one/in/a"]),
        (["s3://one/in", "s3://one/late/*"], ["s3://one/in/a", "s3://one/late/a"], ["in/a", "late/a"]),
        (["/a/*", "/b/*"], ["/a/x", "/b/x"], ["a/x", "b/x"]),
    ],
)
def test_names_of_inputs_in_several_places_are_stable_too(paths: list[str], urls: list[str], names: list[str]) -> None:
    for chosen in (urls, urls[:1]):
        files = [SourceFile(url, "as listed", "jsonl", None, 1, "1") for url in chosen]
        assert [file.name for file in nights.named(files, paths, {})] == names[: len(chosen)]


def test_a_skipped_night_leaves_its_files_to_the_next(place: Place) -> None:
    place.deliver("27.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("28.jsonl", "{ }")
    place.deliver("29.jsonl", "{  }")
    assert new(place.look("2024-11-29")) == ["28.jsonl", "29.jsonl"]


def test_a_late_file_for_an_old_night_is_new(place: Place) -> None:
    place.deliver("27/a.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("26/late.jsonl", "{ }")
    assert new(place.look("2024-11-28")) == ["26/late.jsonl"]


def test_a_night_that_is_run_late_takes_what_no_other_has(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-28")
    place.deliver("b.jsonl", "{ }")
    late = place.finish("2024-11-27")
    assert (late.name, new(late)) == ("2024-11-27", ["b.jsonl"])
    assert new(place.look("2024-11-29")) == []


def test_a_file_delivered_twice_is_named_and_stays_known(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("copy.jsonl", "{}")
    place.deliver("b.jsonl", "[]")
    second = place.finish("2024-11-28")
    assert new(second) == ["b.jsonl"]
    assert "delivered twice, with the same bytes, and not curated again: copy.jsonl (as a.jsonl)" in said(second)
    assert [(item["path"], item["run"]) for item in second.facts["duplicates"]] == [("copy.jsonl", "2024-11-27")]
    third = place.look("2024-11-29")
    assert [twin.file.name for twin in third.listing.covered] == ["a.jsonl", "b.jsonl", "copy.jsonl"]
    (place.input / "copy.jsonl").write_text("{ new }")
    assert new(place.look("2024-11-29")) == ["copy.jsonl"]


def test_a_file_that_grew_is_refused_and_the_night_writes_nothing(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("a.jsonl", "{}\n{}")
    place.deliver("b.jsonl", "{ }")
    shown: list[Night] = []
    for run in (curate_night, plan_night):
        with pytest.raises(InputError, match=r"(?s)1 of the .* changed.*a\.jsonl: curated by night 2024-11-27"):
            run(place.job("2024-11-28"), None, shown.append)
    assert [[twin.file.name for twin in night.listing.changed] for night in shown] == [["a.jsonl"]] * 2
    assert not (place.root / "2024-11-28").exists()


def test_a_file_that_grew_is_curated_whole_again_if_the_job_says_so(place: Place) -> None:
    again = {"changed": "again"}
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("a.jsonl", "{}\n{}")
    place.deliver("0.jsonl", "{ }")
    night = place.finish("2024-11-28", schedule=again)
    assert new(night) == ["0.jsonl", "a.jsonl"]
    assert "curated whole once more: a.jsonl (night 2024-11-27); the kept/ of that night still holds" in said(night)
    assert [item["run"] for item in night.facts["again"]] == ["2024-11-27"]
    assert new(place.look("2024-11-29")) == []


def test_a_file_that_was_only_touched_is_covered_from_then_on(place: Place) -> None:
    path = place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    os.utime(path, ns=(1, 1))
    place.deliver("b.jsonl", "{ }")
    night = place.finish("2024-11-28")
    assert (new(night), night.inputs.notes) == (["b.jsonl"], ())
    assert [item["path"] for item in night.facts["touched"]] == ["a.jsonl"]
    assert [twin.file.name for twin in place.look("2024-11-29").listing.covered] == ["a.jsonl", "b.jsonl"]


def test_nothing_new_ends_well_and_writes_nothing(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    shown: list[Night] = []
    assert curate_night(place.job("2024-11-28"), None, shown.append) is None
    assert plan_night(place.job("2024-11-28"), None, shown.append) is None
    assert [new(night) for night in shown] == [[], []]
    assert not (place.root / "2024-11-28").exists()


def test_a_finished_night_is_left_as_it_is(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    place.deliver("b.jsonl", "{ }")
    shown: list[Night] = []
    outcome = curate_night(place.job("2024-11-27"), None, shown.append)
    assert outcome is not None
    assert outcome.did_nothing
    assert [file["path"] for file in outcome.manifest["input"]["files"]] == ["a.jsonl"]
    assert [night.state for night in shown] == ["finished"]


@pytest.mark.parametrize("date_of_second", ["2024-11-27", "2024-11-28"], ids=["the same night", "another night"])
def test_a_second_driver_under_the_root_is_told(place: Place, date_of_second: str) -> None:
    place.deliver("a.jsonl", "{}")
    with lease.held(Store(str(place.root))), pytest.raises(ConfigError, match=r"another tamis is at work in .*root"):
        curate_night(place.job(date_of_second), None, lambda night: pytest.fail("it looked"))
    assert not (place.root / date_of_second).exists()


def test_a_night_that_failed_goes_on_with_what_it_took(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    begun = place.begin("2024-11-27")
    place.deliver("b.jsonl", "{ }")
    night = place.look("2024-11-27")
    assert (night.state, new(night), [file.name for file in night.waiting]) == ("resumed", ["a.jsonl"], ["b.jsonl"])
    assert night.facts == begun.facts
    assert all(file.sha256 for file in night.inputs.files)


def test_the_next_night_takes_the_files_of_one_that_failed_and_it_cannot_go_on(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.begin("2024-11-27")
    place.deliver("b.jsonl", "{ }")
    second = place.begin("2024-11-28")
    assert new(second) == ["a.jsonl", "b.jsonl"]
    assert second.facts["taken_over"] == ["2024-11-27"]
    assert "2024-11-27: it was begun and has not ended; its files are taken by this night" in said(second)
    for _ in range(2):  # before and after the second one has ended
        with pytest.raises(ConfigError, match="night 2024-11-28 has taken its files"):
            place.look("2024-11-27")
        assert place.look("2024-11-28").state in {"resumed", "finished"}
        place.finish("2024-11-28")


def test_a_chain_of_failures_ends_with_the_last_night(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.begin("2024-11-27")
    place.begin("2024-11-28")
    third = place.begin("2024-11-29")
    assert third.facts["taken_over"] == ["2024-11-27", "2024-11-28"]
    for day in ("2024-11-27", "2024-11-28"):
        with pytest.raises(ConfigError, match="has taken its files"):
            place.look(day)
    assert place.look("2024-11-29").state == "resumed"


def test_a_failed_night_whose_files_no_other_took_may_go_on_later(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.begin("2024-11-27", input=f"{place.input}/a.jsonl")
    place.deliver("b.jsonl", "{ }")
    other = place.finish("2024-11-28", input=f"{place.input}/b.jsonl")
    assert other.facts["taken_over"] == []
    assert new(place.look("2024-11-27", input=f"{place.input}/a.jsonl")) == ["a.jsonl"]


def test_a_failed_night_whose_files_a_run_without_a_schedule_has_cannot_go_on(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    begun = place.begin("2024-11-27")
    place.manifest("by-hand", begun.inputs.files, None, "2024-11-28T00:00:00+00:00")
    with pytest.raises(ConfigError, match="night by-hand has taken its files"):
        place.look("2024-11-27")


@pytest.mark.parametrize("what", ["gone", "changed"])
def test_a_failed_night_whose_files_are_not_as_they_were_does_not_go_on(place: Place, what: str) -> None:
    path = place.deliver("a.jsonl", "{}")
    place.deliver("b.jsonl", "{ }")
    place.begin("2024-11-27")
    path.unlink() if what == "gone" else path.write_text("{}{}")
    with pytest.raises(ConfigError, match=r"gone or have changed since: .*in/a\.jsonl\."):
        place.look("2024-11-27")
    assert "b.jsonl" in new(place.look("2024-11-28"))


def test_an_incomplete_night_does_not_count_and_is_named(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.begin("2024-11-27")
    place.store("2024-11-27").write_facts(INCOMPLETE, {"complete": False})
    night = place.look("2024-11-28")
    assert new(night) == ["a.jsonl"]
    assert "2024-11-27: it is incomplete: shards were set aside; its files are taken by this night" in said(night)
    assert place.look("2024-11-27").state == "resumed"


@pytest.mark.parametrize("content", [b"{}", b"not JSON", b'{"input": 1, "seal": "x"}'])
def test_a_damaged_manifest_does_not_count_and_is_named(place: Place, content: bytes) -> None:
    place.deliver("a.jsonl", "{}")
    place.finish("2024-11-27")
    place.store("2024-11-27").write(MANIFEST, content)
    night = place.look("2024-11-28")
    assert new(night) == ["a.jsonl"]
    assert "2024-11-27: its manifest.json is damaged, or was not written by tamis; it counts for nothing" in said(night)
    assert list(night.facts["not_counted"]) == ["2024-11-27"]


def test_a_manifest_that_names_no_addresses_does_not_count_and_is_named(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.store("old").write_facts(MANIFEST, {"input": {"files": [{"path": "a.jsonl"}]}, "created": "2026", "job": {}})
    night = place.look("2024-11-28")
    assert new(night) == ["a.jsonl"]
    assert "old: its manifest.json does not say which files it read: another version of tamis wrote it" in said(night)


def test_a_run_without_a_claim_is_named(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    place.store("by-hand").write_facts(RUN, {"fingerprint": {}})
    assert "by-hand: it was begun and has not ended; it counts for nothing" in said(place.look("2024-11-28"))


def test_other_things_under_the_root_are_left_alone(place: Place) -> None:
    place.deliver("a.jsonl", "{}")
    (place.root / "notes").mkdir(parents=True)
    (place.root / "README.md").write_text("about")
    assert place.look("2024-11-28").inputs.notes == ()


@pytest.mark.parametrize("name", [MANIFEST, RUN])
def test_the_output_of_a_run_is_no_root(place: Place, name: str) -> None:
    place.deliver("a.jsonl", "{}")
    Store(str(place.root)).write_facts(name, {"fingerprint": {}})
    with pytest.raises(ConfigError, match=r"schedule\.root: .*root is itself the output of a run"):
        place.look("2024-11-28")


def test_nights_may_lie_deeper(place: Place) -> None:
    deep = {"name": "%Y/%m/%d"}
    place.deliver("a.jsonl", "{}")
    assert place.finish("2024-11-27", schedule=deep).name == "2024/11/27"
    place.deliver("b.jsonl", "{ }")
    assert new(place.look("2024-12-01", schedule=deep)) == ["b.jsonl"]


def test_a_file_without_rows_is_looked_at_once(place: Place) -> None:
    path = place.deliver("empty.csv", "a,b\n")
    [file] = place.look("2024-11-27").inputs.files
    empty = [{"url": file.url, "bytes": file.bytes, "identity": file.identity, "sha256": ""}]
    place.manifest("2024-11-27", [], {**place.look("2024-11-27").facts, "empty": empty}, "2024-11-27T00:00:00+00:00")
    assert (new(place.look("2024-11-28")), path.exists()) == ([], True)


def test_a_claim_counts_more_than_its_own_order() -> None:
    """Two nights that claim the same file: the one that took over goes on, the other does not."""
    entries = (Entry("/in/a", 1, "1", "", "n1"),)
    first = Run("n1", "failed", claim=Claim(entries, {}))
    second = Run("n2", "failed", taken_over=("n1",), claim=Claim(entries, {"taken_over": ["n1"]}))
    assert nights.superseded(first, [second]) == "n2"
    assert nights.superseded(second, [first]) is None


def test_tonight_is_today_in_utc_unless_a_night_is_named(place: Place) -> None:
    assert place.job("2024-02-29").output == f"{place.root}/2024-02-29"
    assert place.job("2024-02-29").schedule.date == date(2024, 2, 29)
