"""Columns of tamis beside those of the corpus: none is overwritten, and none is missing."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tamis.pipeline.inputs.added_columns import REASONS, beside, free_names, renamed_note

NAMES = [f"{prefix}{name}{suffix}" for name in ("sample_id", *REASONS) for prefix in ("", "tamis_")
         for suffix in ("", "_2", "_3")]  # fmt: skip


@given(st.sets(st.sampled_from(NAMES)))
def test_ours_make_way_and_are_all_there(taken: set[str]) -> None:
    found = free_names(taken, REASONS)
    assert list(found) == list(REASONS)
    assert len({*taken, *found.values()}) == len(taken) + len(REASONS)
    for name, ours in found.items():
        forms = [name, f"tamis_{name}", *(f"tamis_{name}_{number}" for number in range(2, 5))]
        assert ours == next(form for form in forms if form not in taken)
    theirs = pa.table({name: ["theirs"] for name in sorted(taken)} | {"text": ["x"]})
    table = beside(theirs, {name: pa.array([name]) for name in REASONS})
    assert table.select(theirs.column_names).equals(theirs)
    assert table.to_pylist()[0] == {**theirs.to_pylist()[0], **{ours: name for name, ours in found.items()}}


@pytest.mark.parametrize(
    ("names", "ids", "quantile", "said"),
    [
        ({"text", "tamis_score"}, "all", True, None),
        ({"sample_id"}, "none", True, None),
        ({"quantile"}, "dropped", False, None),
        (
            {"sample_id"},
            "dropped",
            False,
            "adds to dropped rows (sample_id), and keeps them; those of tamis are called tamis_sample_id",
        ),
        ({"sample_id"}, "all", True, "adds to kept and dropped rows (sample_id), and keeps them; those of tamis"),
        (
            {"method", "score", "tamis_score", "tamis_method"},  # a corpus that was dropped/ of an earlier run
            "dropped",
            True,
            "(method, score), and keeps them; those of tamis are called tamis_method_2, tamis_score_2",
        ),
    ],
)
def test_the_plan_says_what_is_called_otherwise(names: set[str], ids: str, quantile: bool, said: str | None) -> None:
    notes = renamed_note(names, ids, with_quantile=quantile)  # type: ignore[arg-type]
    assert len(notes) == (said is not None)
    assert said is None or said in notes[0]
