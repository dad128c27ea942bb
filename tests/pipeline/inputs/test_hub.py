"""hf:// addresses: which files they are, pinned to a commit, and what is said when they are none."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import TOKEN, Hub, running_hub
from hub_questions import ask, parquet, run

LINE = b'{"prompt": "a", "response": "b"}\n'
CHAT = "hf://datasets/team/chat"
CARD = b"""---
configs:
- config_name: english
  data_files:
  - {split: train, path: [en/a.jsonl, en/b.jsonl.gz]}
  - {split: test, path: en/c.jsonl}
- config_name: german
  data_files: de/*.csv
---
# Two languages
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def zipped(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def shards(split: str, count: int) -> dict[str, bytes]:
    return {f"data/{split}-{i:05d}-of-{count:05d}.parquet": parquet(2, first=10 * i) for i in range(count)}


def test_a_dataset_is_the_files_of_one_split_pinned_to_the_commit(hub: Hub, tmp_path: Path) -> None:
    hub.page_size = 3  # listings of several pages
    files = {"README.md": b"# Chats", **shards("train", 5), **shards("test", 1)}
    commit = hub.add("datasets", "team/chat", files).refs["main"]
    train, slashed, both, unknown, part, config = ask(
        hub,
        tmp_path,
        [
            (CHAT, {"split": "train"}),
            (f"{CHAT}/", {"split": "test"}),
            (CHAT, {}),
            (CHAT, {"split": "dev"}),
            (f"{CHAT}/data/train-*.parquet", {"split": "train"}),
            (CHAT, {"split": "test", "config": "default"}),
        ],
    )
    assert train.names == [f"train-{i:05d}-of-00005.parquet" for i in range(5)]
    assert train.files[1]["url"] == f"{CHAT}@{commit}/data/train-00001-of-00005.parquet"
    assert train.files[1]["bytes"] == len(files["data/train-00001-of-00005.parquet"])
    assert len({file["identity"] for file in train.files}) == 5
    assert "" not in {file["identity"] for file in train.files}
    assert slashed.names == config.names == ["test-00000-of-00001.parquet"]
    assert both.kind == unknown.kind == "InputError"
    assert f"{CHAT}: has 2 splits: train, test; choose one with --set input.split=train, or" in both.problem
    assert unknown.problem == f"{CHAT}: has no split dev; it has train, test"
    assert part.kind == "ConfigError"
    assert "so it has no split; leave it out" in part.error
    assert not [name for name in hub.gets if name.endswith(".parquet")], "nothing is fetched to find the files"


def test_a_single_split_needs_no_name_and_configs_come_from_the_card(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", "team/one", {"chats.jsonl": LINE})
    files = {"README.md": CARD, "en/a.jsonl": LINE, "en/b.jsonl.gz": b"x", "en/c.jsonl": LINE, "de/a.csv": b"a\nb\n"}
    hub.add("datasets", "team/two", files | {"notes.jsonl": LINE})
    two, hive = "hf://datasets/team/two", "hf://datasets/team/hive"
    hub.add("datasets", "team/hive", {f"n=1/split={split}/a.jsonl": LINE for split in ("train", "test")})
    one, english, german, open_, unknown, mixed, test = ask(
        hub,
        tmp_path,
        [
            ("hf://datasets/team/one", {}),
            (two, {"config": "english", "split": "train"}),
            (two, {"config": "german"}),
            (two, {}),
            (two, {"config": "french"}),
            (hive, {}),
            (hive, {"split": "test"}),
        ],
    )
    assert one.names == ["chats.jsonl"]
    assert english.names == ["a.jsonl", "b.jsonl.gz"]
    assert english.files[1]["compression"] == "gzip"
    assert german.names == ["a.csv"]
    assert f"{two}: has 2 configs: english, german; choose one with --set input.config=english" in open_.problem
    assert unknown.problem == f"{two}: has no config french; it has english, german"
    # Partitions, which `datasets` would read as one corpus.
    assert f"{hive}: has 2 splits: train, test; choose one" in mixed.problem
    assert [(file["url"].partition("/n=")[2], file["partition"]) for file in test.files] == [
        ("1/split=test/a.jsonl", '[["n", "int32", 1], ["split", "string", "test"]]')
    ]


def test_paths_below_a_repository(hub: Hub, tmp_path: Path) -> None:
    old = hub.add("datasets", "team/chat", {"raw/a.jsonl": LINE, "raw/deep/b.jsonl": LINE, "x.txt": b"-"})
    old.commit({"raw/a.jsonl": LINE * 2}, "v2/rc")
    old.commit({"raw/a.jsonl": LINE * 3}, "refs/convert/parquet")
    tiny = hub.add("models", "team/tiny", {"calibration.jsonl": LINE})
    folder, glob, tagged, set_, converted, model, twice, odd = ask(
        hub,
        tmp_path,
        [
            (f"{CHAT}/raw", {}),
            (f"{CHAT}/**/*.jsonl", {}),
            (f"{CHAT}@v2%2Frc/raw/a.jsonl", {}),
            (f"{CHAT}/raw/a.jsonl", {"revision": "v2/rc"}),
            (f"{CHAT}@refs/convert/parquet/raw/a.jsonl", {}),
            ("hf://team/tiny/calibration.jsonl", {}),
            ([f"{CHAT}/raw/a.jsonl", f"{CHAT}@main/raw/*"], {}),
            (f"{CHAT}/x.txt", {}),
        ],
    )
    assert folder.names == glob.names == ["a.jsonl", "deep/b.jsonl"]
    assert [file["bytes"] for answer in (tagged, set_, converted) for file in answer.files] == [66, 66, 99]
    assert tagged.files == set_.files
    assert model.files[0]["url"] == f"hf://team/tiny@{tiny.refs['main']}/calibration.jsonl"
    assert twice.names == ["a.jsonl"], "one file, however its revision is written"
    assert "the ending does not say what it is" in odd.problem


def test_names_that_are_wrong_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", "team/chat", {"a.jsonl": LINE})
    hub.add("models", "team/tiny", {"config.json": b"{}"})
    missing, revision, conflict, short, model, nothing, local, plain, absent = ask(
        hub,
        tmp_path,
        [
            ("hf://datasets/team/none", {}),
            (CHAT, {"revision": "v9"}),
            (f"{CHAT}@v1", {"revision": "v2"}),
            ("hf://datasets/chat", {}),
            ("hf://team/tiny", {}),
            (f"{CHAT}/b.jsonl", {}),
            ("team/chat", {}),
            (str(tmp_path), {"revision": "main"}),
            ("some/where/else", {}),
        ],
    )
    assert "check the name, or set HF_TOKEN if it is private" in missing.problem
    assert f"{CHAT}: has no revision v9" in revision.problem
    assert conflict.kind == "ConfigError"
    assert "input.revision is v2" in conflict.error
    assert "write it as hf://datasets/ORG/NAME" in short.problem
    assert "a model, not a dataset" in model.problem
    assert nothing.problem == f"{CHAT}/b.jsonl: no such file or folder"
    assert local.problem.endswith("a dataset of the Hugging Face hub is written hf://datasets/team/chat")
    assert plain.kind == "ConfigError"
    assert "has no revisions" in plain.error
    assert absent.problem == "some/where/else: no such file or folder"


def test_private_and_gated_datasets_open_with_the_token_of_the_environment(hub: Hub, tmp_path: Path) -> None:
    hub.add("datasets", "team/chat", {"a.jsonl": LINE}, private=True)
    hub.add("datasets", "team/gated", {"a.jsonl": LINE}, gated=True)
    questions = [(CHAT, {}), ("hf://datasets/team/gated", {}), ("hf://datasets/team/gated/a.jsonl", {})]
    private, *gated = ask(hub, tmp_path, questions)
    assert "set HF_TOKEN if it is private" in private.problem
    for answer in gated:
        assert "ask for it on the dataset's page, and set HF_TOKEN" in answer.problem
    assert [answer.names for answer in ask(hub, tmp_path, questions, HF_TOKEN=TOKEN)] == [["a.jsonl"]] * 3
    [wrong] = ask(hub, tmp_path, questions[:1], HF_TOKEN="hf_some_other_token")
    assert "HF_TOKEN" in wrong.problem
    assert "hf_some_other_token" not in wrong.problem


def test_offline_is_said(hub: Hub, tmp_path: Path) -> None:
    [answer] = ask(hub, tmp_path, [(CHAT, {})], HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in answer.problem
    assert "hf download team/chat --repo-type dataset" in answer.problem
    assert not hub.calls


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"a.tar": b"x", "b.tar": b"x"}, "2 of its files are of a kind that tamis does not read, such as a.tar"),
        ({"a.png": b"x"}, "such as a.png"),
        ({"a.zip": zipped("a.jsonl", LINE)}, "such as a.zip"),
        ({"README.md": b"# Nothing"}, "`datasets` finds nothing to read in it"),
        ({"chat.py": b"raise SystemExit", "a.jsonl": LINE}, "Dataset scripts are no longer supported"),
        (
            {
                "README.md": b"---\nconfigs:\n- {config_name: a, data_files: x.csv, sep: ';'}\n---\n",
                "x.csv": b"a;b\n1;2\n",
            },
            "its card wants its files read with sep, which tamis does not know",
        ),
        (
            {"README.md": b"---\nconfigs:\n- {config_name: a, data_files: %s}\n---\n", "x.jsonl": LINE},
            # of newer versions of `datasets`, and of ours
            "Data files don't belong to team/chat|its card names files that are not of this revision",
        ),
        (
            {
                "README.md": b"---\nconfigs:\n- {config_name: a, data_files: 'hf://datasets/team/chat@old/x.jsonl'}\n---\n"
            },
            "its card names files that are not of this revision",
        ),
    ],
    ids=["webdataset", "images", "zip", "empty", "script", "reading-options", "files-elsewhere", "another-revision"],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    hub: Hub, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_bytes(LINE)
    if b"%s" in files.get("README.md", b""):
        files = {**files, "README.md": files["README.md"] % str(secret).encode()}
    hub.add("datasets", "team/chat", files).commit({"x.jsonl": LINE}, "old")
    [answer] = ask(hub, tmp_path / "home", [(CHAT, {})])
    assert answer.kind == "InputError"
    assert any(words in answer.problem for words in reason.split("|"))


def test_a_branch_that_moves_on_changes_nothing_of_what_was_planned(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add("datasets", "team/chat", {"a.jsonl": LINE, "b.jsonl": LINE})
    [before] = ask(hub, tmp_path, [(CHAT, {})])
    repository.commit({"a.jsonl": LINE * 4, "b.jsonl": LINE, "README.md": b"# New"})
    code = (
        "import json, sys; from tamis.pipeline.inputs.files import SourceFile\n"
        "from tamis.pipeline.inputs.shards import *\n"
        "file = SourceFile(**json.load(sys.stdin)); [shard] = make_shards(scan(file, 10, {}), CORPUS, {}, 0)\n"
        "print(shard.id, len(read(shard, {})))"
    )
    reads = [run(hub, tmp_path, code, json.dumps(before.files[0])) for _ in range(2)]
    assert [read.stderr for read in reads] == ["", ""]
    assert reads[0].stdout.split()[1] == "1", "as it was planned"
    [after] = ask(hub, tmp_path, [(CHAT, {})])
    assert [file["bytes"] for file in after.files] == [4 * len(LINE), len(LINE)]
    same = [old["identity"] == new["identity"] for old, new in zip(before.files, after.files, strict=True)]
    assert same == [False, True], "another commit, and only what it changed is another file"
