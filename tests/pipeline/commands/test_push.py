"""`tamis push` against a hub on loopback: nothing is sent unasked, what is sent is the output, and no token is shown.

Everything that reaches the hub goes through one process each: the hub's address is fixed at import.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub import TOKEN, Hub, running_hub
from hub_questions import run

from tamis.pipeline.report import render_card
from tamis.pipeline.run.paths import MANIFEST
from tamis.pipeline.storage.store import Store

NAME = "team/filtered"
PARTS = {"kept": 3, "dropped": 2, "quarantine": 1, "scores": 6}

_CODE = """
import json, sys
from tamis.pipeline.commands.push import push
from tamis.pipeline.errors import TamisError
from tamis.pipeline.storage.store import Store
answers = []
for output, name, flags in json.load(sys.stdin):
    asked = {"public": False, "everything": False, "confirmed": False, **flags}
    try:
        found = push(Store(output), name, **asked)
        answers.append(["", found.lines(), found.commit])
    except TamisError as error:
        answers.append([type(error).__name__, str(error).splitlines(), None])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Answer:
    """The lines of the result, or of the error and its kind."""

    kind: str
    lines: list[str]
    commit: str | None

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def ask(hub: Hub, home: Path, *questions: tuple[Store, str, dict[str, Any]], token: str | None = TOKEN) -> list[Answer]:
    asked = [(store.path(), name, flags) for store, name, flags in questions]
    # The server speaks the LFS protocol, which is what the hub's library does without xet.
    environment = {"HF_HUB_DISABLE_XET": "1", **({} if token is None else {"HF_TOKEN": token})}
    done = run(hub, home, _CODE, json.dumps(asked), **environment)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    assert all(line.startswith("verify ") for line in done.stderr.splitlines()), done.stderr
    return [Answer(*answer) for answer in json.loads(done.stdout)]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def output(
    folder: Path, shards: int = 2, text: str = "a", card: Callable[[dict[str, Any]], str] = render_card, **more: Any
) -> Store:
    """A finished output of two shards, both alike."""
    store = Store(str(folder))
    written = [store.write("report.html", b"<p>"), store.write("artifact/artifact.json", b"{}")]
    for shard in range(shards):
        for part, rows in PARTS.items():
            table = pa.table({"text": [f"{text} {part} {shard} {row}" for row in range(rows)]})
            written.append(store.write_table(f"{part}/{shard:06d}-aa.parquet", table))
    counts = {"rows_in": 6 * shards, "kept": 3 * shards, "dropped": 2 * shards, "quarantined": shards}
    facts = {"complete": True, "title": text, "fingerprint": {}, "counts": counts, "job": {"output": "/home/jane/out"}}
    facts |= more
    written.append(store.write("README.md", card(facts).encode()))
    store.write_facts(MANIFEST, {**facts, "files": [file.to_dict() for file in written]})
    return store


def held(hub: Hub) -> dict[str, bytes]:
    repository = hub.repositories["datasets", NAME]
    return repository.commits[repository.refs["main"]]


def names(*, shards: int = 2, everything: bool = False) -> set[str]:
    parts = [part for part in PARTS if everything or part != "quarantine"]
    found = {".gitattributes", "README.md", *(f"{part}/{n:06d}-aa.parquet" for part in parts for n in range(shards))}
    return found | ({"report.html", "artifact/artifact.json", "manifest.json"} if everything else set())


def test_a_push_is_private_whole_and_asked_for(hub: Hub, tmp_path: Path) -> None:
    store = output(tmp_path / "out")
    dry, sent, same = ask(
        hub, tmp_path, (store, NAME, {}), (store, NAME, {"confirmed": True}), (store, NAME, {"confirmed": True})
    )
    assert dry.lines[0] == f"would make the private dataset {NAME} ({hub.url}/datasets/{NAME})"
    assert [line.split() for line in dry.lines[1:5] if "files" in line] == [
        [f"{part}/", "2", "files,", *line.split()[3:5], str(2 * PARTS[part]), "rows"]
        for part, line in zip(("dropped", "kept", "scores"), dry.lines[2:5], strict=True)
    ]
    assert "not uploaded: artifact/, manifest.json, quarantine/, report.html (--all" in dry.text
    assert "may hold harmful text" in dry.text
    assert dry.lines[-1] == "nothing was uploaded; add --yes to do it"
    assert (dry.commit, sent.kind) == (None, ""), sent.text
    repository = hub.repositories["datasets", NAME]
    assert repository.private
    assert sent.commit == repository.refs["main"]
    assert not [name for name, data in held(hub).items() if b"jane" in data]
    assert held(hub).keys() == names()
    for name in names() - {".gitattributes"}:
        assert held(hub)[name] == store.read(name), name
    assert "the hub's digests of all 7 files are those of the output" in sent.text
    # The same again makes no other commit.
    assert same.commit == sent.commit, same.text


def test_a_dry_run_sends_nothing(hub: Hub, tmp_path: Path) -> None:
    [dry] = ask(hub, tmp_path, (output(tmp_path / "out"), NAME, {"everything": True}), token=None)
    assert dry.kind == "", dry.text
    assert "not uploaded" not in dry.text
    assert "there is no token (HF_TOKEN, or `hf auth login`): a private dataset of this name is not seen" in dry.text
    assert (hub.writes, hub.blobs, hub.repositories) == ([], {}, {})


def test_whole_paths_in_the_rows_are_said_before_they_are_sent(hub: Hub, tmp_path: Path) -> None:
    """As of two files without a folder in common, whose names in the column source are their paths."""
    common = [{"path": "a.jsonl", "url": "/home/jane/a.jsonl"}, {"path": "b/x", "url": "s3://b/x"}]
    apart = [{"path": "c.jsonl", "url": "/data/c.jsonl"}, {"path": "home/jane/a.jsonl", "url": "/home/jane/a.jsonl"}]
    whole = [{"path": "/home/jane/b.jsonl", "url": "file:///home/jane/b.jsonl"}]
    stores = [
        output(tmp_path / name, shards=1, input={"files": files})
        for name, files in (("common", common), ("apart", apart), ("whole", whole))
    ]
    said = [answer.lines for answer in ask(hub, tmp_path, *((store, NAME, {}) for store in stores))]
    warnings = [[line.strip() for line in lines if "warning" in line] for lines in said]
    words = "warning: the column source would show places on this machine, as"
    assert warnings == [[], [f"{words} home/jane/a.jsonl"], [f"{words} /home/jane/b.jsonl"]]
    assert hub.writes == []


def test_another_push_leaves_no_row_of_the_earlier_one(hub: Hub, tmp_path: Path) -> None:
    first, second = output(tmp_path / "first"), output(tmp_path / "second", shards=1, text="b")
    everything = {"confirmed": True, "everything": True}
    [one] = ask(hub, tmp_path, (first, NAME, everything))
    assert one.kind == "", one.text
    assert held(hub).keys() == names(everything=True)
    assert b"jane" in held(hub)["manifest.json"] == first.read("manifest.json")
    files = {**held(hub), "LICENSE": b"ours", "notes/a.parquet": b"ours"}
    hub.repositories["datasets", NAME].commit(files)
    dry, two = ask(hub, tmp_path, (second, NAME, {}), (second, NAME, {"confirmed": True}))
    # A shard's kept, dropped and scores; quarantine, artifact, report and manifest, which are not pushed now.
    assert "would remove there: 8 files of an earlier push" in dry.text
    assert two.kind == "", two.text
    assert held(hub).keys() == names(shards=1) | {"LICENSE", "notes/a.parquet"}
    assert pq.read_table(pa.BufferReader(held(hub)["kept/000000-aa.parquet"])).column("text")[0].as_py() == "b kept 0 0"


def test_what_is_not_whole_or_not_ours_is_refused_before_anything_is_sent(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", "team/other", {"README.md": b"# Chats\n", "data/a.parquet": b"x"})
    hub.add("datasets", "team/open", {".gitattributes": b""})
    hub.add("datasets", "team/shut", {".gitattributes": b""}, private=True)
    whole, damaged, stray = (output(tmp_path / name) for name in ("whole", "damaged", "stray"))
    (tmp_path / "damaged/kept/000001-aa.parquet").write_bytes(b"PAR1")
    (tmp_path / "stray/kept/more.parquet").write_bytes(b"PAR1")
    old = output(tmp_path / "old", card=lambda facts: f"# Of an earlier version\n\n{facts['job']}\n")
    sure = {"confirmed": True}
    answers = ask(
        hub,
        tmp_path,
        (damaged, NAME, sure),
        (stray, NAME, sure),
        (Store(str(tmp_path / "nothing")), NAME, sure),
        (old, NAME, sure),
        (whole, "no-team", sure),
        (whole, "team/../x", sure),
        (whole, "team/other", sure),
        (whole, "team/open", sure),
        (whole, "team/shut", {**sure, "public": True}),
    )
    said = [
        ("InputError", "has 4 bytes, the manifest says"),
        ("InputError", "kept/more.parquet: is not in the manifest"),
        ("ConfigError", "no run of tamis has been here"),
        ("ConfigError", "README.md is none that this version of tamis has written: it may name places on this machine"),
        ("ConfigError", "no-team is no name of a dataset; write it as ORG/NAME"),
        ("ConfigError", "is no name of a dataset"),
        ("ConfigError", "team/other is there and holds something that tamis has not written; choose another name"),
        ("ConfigError", "team/open is there and is public; add --public"),
        ("ConfigError", "team/shut is there and is private; leave out --public"),
    ]
    for answer, (kind, words) in zip(answers, said, strict=True):
        assert (answer.kind, words in answer.text) == (kind, True), answer.text
    [unknown] = ask(hub, tmp_path, (whole, NAME, sure), token="hf_of_somebody_else")
    assert (unknown.kind, "the hub refuses this token (401" in unknown.text) == ("ConfigError", True), unknown.text
    assert "hf_of_somebody_else" not in unknown.text
    [none] = ask(hub, tmp_path, (whole, NAME, sure), token=None)
    assert none.lines == ["push: there is no token for the hub; set HF_TOKEN, or run `hf auth login`"]
    assert hub.blobs == {}
    assert NAME not in {name for _, name in hub.repositories}


def test_what_the_hub_holds_otherwise_is_found(hub: Hub, tmp_path: Path) -> None:
    hub.spoils = True
    [spoilt] = ask(hub, tmp_path, (output(tmp_path / "out"), NAME, {"confirmed": True, "public": True}))
    assert spoilt.kind == "DamagedError"
    assert "is not on the hub as it is in the output; push again" in spoilt.text
    assert not hub.repositories["datasets", NAME].private
