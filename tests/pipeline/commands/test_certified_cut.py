"""What goes together with --certify, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from labelled_runs import write_run

from tamis.pipeline.commands.certified_cut import certified_choice
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.planning.reselection import Choice
from tamis.pipeline.storage.store import Store

ROWS = 400


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A fifth of the rows is harmful, and has the highest scores by `good` and the lowest by `poor`."""
    made = Store(str(tmp_path / "out"))
    harmful = [int(row % 5 == 0) for row in range(ROWS)]
    rows = [{"text": "-", "harmful": flag} for flag in harmful]
    good = [row / ROWS + flag for row, flag in enumerate(harmful)]
    write_run(made, {"a.jsonl": rows}, {"good": good, "poor": [-one for one in good]}, ["kept"] * ROWS)
    return made


def test_the_threshold_is_the_certified_one(store: Store) -> None:
    choice, found = certified_choice(store, Choice(allow_majority=True), 0.1, "harmful", 0.1, 1.0)
    assert found is not None
    assert choice == Choice(threshold=found.parts[0].threshold, allow_majority=True)
    assert found.parts[0].best is not None
    assert found.parts[0].best.kept.size == 340  # 320 harmless rows; of 360 more than a tenth is harmful


def test_what_certifies_nothing_is_refused_with_all_that_is_said(store: Store) -> None:
    with pytest.raises(InputError, match="certify a cut, and nothing was written") as caught:
        certified_choice(store, Choice(by="poor"), 0.1, "harmful", 0.1, 0.7)
    assert any("no cut by poor can be certified" in problem for problem in caught.value.problems)


def test_labels_that_nobody_drew_cut_only_for_who_vouches_for_them(store: Store, tmp_path: Path) -> None:
    """Just the obviously fine rows are labelled."""
    path = tmp_path / "own.jsonl"
    path.write_text("".join(f'{{"row": {row}, "harmful": 0}}\n' for row in range(ROWS) if row % 5))
    with pytest.raises(ConfigError, match="does not show that its rows were drawn at random"):
        certified_choice(store, Choice(), 0.1, str(path), 0.1, 0.7)
    choice, found = certified_choice(store, Choice(), 0.1, str(path), 0.1, 0.7, trusted=True)
    assert found is not None
    assert found.assumes_random
    assert choice.threshold == found.parts[0].threshold
    with pytest.raises(ConfigError, match="--trust-labels is for --certify"):
        certified_choice(store, Choice(drop=0.1), None, None, 0.1, 0.7, trusted=True)


def test_without_either_flag_nothing_is_certified(store: Store) -> None:
    assert certified_choice(store, Choice(drop=0.1), None, None, 0.1, 0.7) == (Choice(drop=0.1), None)


@pytest.mark.parametrize(("alpha", "labels"), [(0.1, None), (None, "harmful")])
def test_they_go_together(store: Store, alpha: float | None, labels: str | None) -> None:
    with pytest.raises(ConfigError, match="--certify and --labels go together"):
        certified_choice(store, Choice(), alpha, labels, 0.1, 0.7)


@pytest.mark.parametrize(
    ("other", "flag"),
    [({"drop": 0.1}, "--drop"), ({"drop_count": 3}, "--drop-count"), ({"threshold": 0.5}, "--threshold"),
     ({"control": "random"}, "--control"), ({"within": "source"}, "--within")],
)  # fmt: skip
def test_only_the_certificate_cuts(store: Store, other: dict[str, Any], flag: str) -> None:
    with pytest.raises(ConfigError, match=f"leave {flag} out"):
        certified_choice(store, Choice(**other), 0.1, "harmful", 0.1, 0.7)
