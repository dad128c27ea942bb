"""What a fit over several nights is made from: the order of the shards, and which nights do not belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.operators.methods import Larf, Saft
from tamis.operators.methods.protocol import CORPUS, Artifact
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.nights import refit
from tamis.pipeline.nights.refit import Captures, Part
from tamis.pipeline.run.frozen import Frozen, FrozenCut, FrozenFacts
from tamis.pipeline.storage.store import Sealed, Store

SETTINGS = {
    "format": 4,
    "model": "m",
    "max_tokens": 128,
    "larf.layer": "auto",
    "larf.form": "paired",
    "larf.position": "last_token",
    "saft.k": 2,
    "selection.drop": 0.25,
    "selection.by": "larf",
}


def night(name: str, *parts: tuple[str, int, int], precision: str = "float32 on cpu", **settings: Any) -> Captures:
    """A night whose shards hold these (file, first row, rows)."""
    facts = FrozenFacts(
        methods=("larf", "saft"),
        selected_by="larf",
        how="drop 0.25",
        cut=FrozenCut(0.5, None),
        settings={**SETTINGS, **settings},
        dtype="float32",
        device="cpu",
        model={},
        template=None,
        statistics={},
    )
    artifacts = {"larf": Artifact({}, {"layer": 3, "layer_chosen": "search"}), "saft": Artifact({}, {"layer": 2})}
    shards = tuple(
        Part(CORPUS, source, start, rows, Sealed(f"{source}-{start}", "f" * 64)) for source, start, rows in parts
    )
    return Captures(Store(f"/root/{name}"), Frozen(name, facts, artifacts, {}, ""), 8, shards, {}, precision)


@given(
    st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=5).map(
        lambda files: [(f"f{number}", shards) for number, shards in enumerate(files)]
    )
)
def test_each_shard_is_found_in_its_file(files: list[tuple[str, list[int]]]) -> None:
    found = refit.places(
        [(name, sum(shards)) for name, shards in files], [rows for _, shards in files for rows in shards], Store("/r")
    )
    expected = [(name, sum(shards[:number])) for name, shards in files for number in range(len(shards))]
    assert found == expected


@pytest.mark.parametrize("shards", [[3], [2, 2, 2, 1], [5], [2, 3], [2, 2, 1]])
def test_shards_that_are_not_those_of_the_files_are_refused(shards: list[int]) -> None:
    with pytest.raises(ConfigError, match="are not of the files in its manifest"):
        refit.places([("a", 4), ("b", 2)], shards, Store("/r"))


def test_the_shards_stand_as_in_one_corpus() -> None:
    first = night("n1", ("27/a", 0, 8), ("27/a", 8, 2), ("28/late", 0, 4))
    second = night("n2", ("27/z", 0, 3), ("28/b", 0, 3))
    order = [(part.source, part.start_row, store.path()) for store, part in refit.in_order([first, second])]
    assert [(source, row) for source, row, _ in order] == [
        ("27/a", 0), ("27/a", 8), ("27/z", 0), ("28/b", 0), ("28/late", 0),
    ]  # fmt: skip
    assert [where for *_, where in order] == ["/root/n1", "/root/n1", "/root/n2", "/root/n2", "/root/n1"]


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (night("n2", model="another"), ["model"]),
        (night("n2", **{"tokenizer and template": "t"}), ["tokenizer and template"]),
        (night("n2", **{"larf.form": "mean", "saft.k": 3}), ["larf.form", "saft.k"]),
        (night("n2", **{"selection.drop": 0.1}), ["selection.drop"]),
        (night("n2", precision="bfloat16 on cuda"), ["model.dtype"]),
        (replace(night("n2"), blocks=9), ["blocks"]),
    ],
)
def test_a_night_of_other_settings_is_named_with_what_differs(other: Captures, named: list[str]) -> None:
    assert refit.differences(night("n1"), other) == named
    with pytest.raises(ConfigError) as raised:
        refit.check_alike([night("n1"), night("n0"), other])
    said = str(raised.value)
    assert f"/root/n2: {', '.join(named)}" in said
    assert "/root/n0" not in said


def test_nights_that_differ_in_nothing_but_their_device_belong_together() -> None:
    """It changes the last digits of a score only."""
    refit.check_alike([night("n1"), night("n2", precision="float32 on cuda")])


def test_a_cut_by_chance_is_no_cut_to_fit() -> None:
    with pytest.raises(ConfigError, match="made by chance"):
        refit.check_alike([night("n1", **{"selection.control": "random"})])


def test_nights_of_drawn_rows_are_not_fitted_again() -> None:
    """Their artifacts say that a sample stands for the corpus; a refit would read all rows, and say otherwise."""
    drawn = night("n1")
    drawn.frozen.artifacts["saft"].facts["corpus_sample"] = {"usable": 7}
    with pytest.raises(
        ConfigError, match=r"saft was fitted to rows drawn .*: begin another schedule.root with saft\.sample: all"
    ):
        refit.check_alike([drawn])


def test_the_methods_are_those_of_the_nights_and_larfs_block_is_the_one_that_was_found() -> None:
    methods = refit.methods_in(night("n1"))
    larf, saft = methods["larf"], methods["saft"]
    assert isinstance(larf, Larf)
    assert isinstance(saft, Saft)
    assert (larf.layer, larf.layer_chosen, larf.position, saft.k) == (3, "search", "last_token", 2)


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({}, ("drop", 0.25)),
        ({"selection.drop": 0.75}, ("drop", 0.75)),
    ],
)
def test_the_cut_is_made_by_the_rule_of_the_nights(settings: dict[str, Any], rule: tuple[str, float]) -> None:
    assert refit.selection_of(night("n1", **settings).frozen).rule == rule


@pytest.mark.parametrize(
    ("urls", "common"),
    [
        (["/root/a", "/root/b"], "/root"),
        (["/root/a"], "/root/a"),
        (["/root/2024/11/27", "/root/2024/12/01"], "/root/2024"),
        (["s3://bucket/n/a", "s3://bucket/n/b"], "s3://bucket/n"),
        (["s3://bucket/a", "s3://bucket/b"], "s3://bucket"),
    ],
)
def test_nights_are_read_from_the_folder_that_holds_them_all(urls: list[str], common: str) -> None:
    stores = [Store(url) for url in urls]
    shared = refit.common(stores)
    assert shared.url == common
    for store in stores:
        file = refit._seen_from(shared, store, Sealed("_work/capture/x.parquet", "f"))
        assert f"{shared.url}/{file.name}" == f"{store.url}/_work/capture/x.parquet"


@pytest.mark.parametrize("urls", [["/root/a", "s3://bucket/a"], ["s3://one/a", "s3://two/a"]])
def test_nights_on_different_storages_are_refused(urls: list[str]) -> None:
    with pytest.raises(ConfigError, match="copy them to one"):
        refit.common([Store(url) for url in urls])


@pytest.mark.parametrize(
    "name", ["notes.txt", "manifest.json", "refit.json", "_work/run.json", "_work/receipts/capture/x"]
)
def test_an_output_that_holds_something_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    """Of a night that has not ended, all work would be lost."""
    out = Store(str(tmp_path / "out"))
    out.write(name, b"{}")
    with pytest.raises(ConfigError, match="is not empty"):
        refit.refit([Store(str(tmp_path / "n1"))], [], out)
    assert out.exists(name)


def test_what_an_interrupted_fit_has_left_is_no_hindrance(tmp_path: Path) -> None:
    out = Store(str(tmp_path / "out"))
    for name in ("artifact/saft.safetensors", "_work/scores/000000-x.parquet"):
        out.write(name, b"")
    with pytest.raises(ConfigError, match="holds no finished run"):  # the next thing that is looked at
        refit.refit([Store(str(tmp_path / "n1"))], [], out)


def test_a_night_is_no_place_for_an_artifact(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "n1"))
    with pytest.raises(ConfigError, match="is one of the nights"):
        refit.refit([store], [], store)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no finished run, and is no root of such"):
        refit.runs_at([Store(str(tmp_path))])
    with pytest.raises(ConfigError, match="there is no finished night to fit from"):
        refit.refit([], [], Store(str(tmp_path / "out")))
