"""Nights whose input and root lie in a bucket."""

from __future__ import annotations

from typing import Any

from object_store import S3

from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.nights import night as nights
from tamis.pipeline.nights.coverage import Entry
from tamis.pipeline.nights.night import Night, look
from tamis.pipeline.nights.runs import read_refits, write_claim
from tamis.pipeline.run.paths import MANIFEST, REFIT
from tamis.pipeline.storage.store import Store


def test_nights_in_a_bucket(moto: S3, storage_environment: dict[str, str]) -> None:
    bucket = moto.make_bucket("nights-that-add-up")

    def deliver(name: str, text: str) -> None:
        moto.client().put_object(Bucket="nights-that-add-up", Key=f"in/{name}", Body=text.encode())

    def on(day: str) -> Night:
        tree: dict[str, Any] = {"input": f"{bucket}/in/**/*.jsonl", "model": "m", "method": "saft"}
        tree |= {"storage_options": dict(moto.storage_options), "schedule": {"root": f"{bucket}/nights", "date": day}}
        return look(load_job(None, tree))

    def finish(day: str) -> Night:
        found = on(day)
        store = Store(f"{bucket}/nights/{day}", moto.storage_options)
        entries = [Entry.of(file, day) for file in nights.hashed(found.inputs.files, moto.storage_options)]
        write_claim(store, entries, found.facts)
        listed = [{**entry.to_dict(), "path": "x"} for entry in entries]
        facts = {"created": day, "fingerprint": {}, "job": {}, "input": {"files": listed}, "night": found.facts}
        store.write_facts(MANIFEST, facts)
        return found

    deliver("27/a.jsonl", "{}")
    assert [file.name for file in finish("2024-11-27").inputs.files] == ["27/a.jsonl"]
    deliver("27/copy.jsonl", "{}")
    deliver("28/b.jsonl", "{ }")
    second = finish("2024-11-28")
    assert [file.name for file in second.inputs.files] == ["28/b.jsonl"]
    assert [item["of"] for item in second.facts["duplicates"]] == [f"{bucket}/in/27/a.jsonl"]
    deliver("27/a.jsonl", "{}{}")
    third = on("2024-11-29")
    assert [twin.file.name for twin in third.listing.changed] == ["27/a.jsonl"]
    assert [twin.entry.run for twin in third.listing.covered] == ["2024-11-27", "2024-11-28"]
    assert third.artifact.name == "2024-11-27"
    root = Store(f"{bucket}/nights", moto.storage_options)
    Store(f"{bucket}/nights/_artifacts/x", moto.storage_options).write_facts(REFIT, {"created": "2024-11-30"})
    assert [refit.name for refit in read_refits(root)] == ["_artifacts/x"]
    assert on("2024-11-30").artifact.name == "_artifacts/x"
