from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from cutting import drop
from hypothesis import given, settings
from hypothesis import strategies as st

from tamis.operators.methods.toss import (
    IGNORED,
    REACH,
    Toss,
    TossPro,
    discard_in_each,
    highest_risk,
    per_row_counts,
    positions,
    token_risk,
    training_columns,
    turn_ends,
)
from tamis.operators.statistics.selection import drop_count_of

Rows = list[list[float]]

# Few values, zeros of both signs, neighbours and subnormals: ties in and across rows every time.
tied = st.sampled_from(
    [float(np.float32(value)) for value in (0.0, -0.0, 1e-45, 1.0, np.nextafter(np.float32(1), 2), -1.0, 3e38, -3e38)]
)
# Each of them a float32, as the twin compares them as they are.
any_rows = st.lists(
    st.lists(tied, max_size=8) | st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=8),
    max_size=12,
)
shares = st.integers(0, 100).map(lambda hundredths: hundredths / 100)


def ragged(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    flat = np.array([value for row in rows for value in row], np.float32)
    return flat, np.cumsum([0, *[len(row) for row in rows]], dtype=np.int64)


def shards_of(rows: Rows, number: int) -> list[Rows]:
    edges = np.linspace(0, len(rows), number + 1).astype(int)
    return [rows[start:stop] for start, stop in itertools.pairwise(edges)]


# --- risk ---------------------------------------------------------------------------------------------------------


def test_risk_is_the_difference_rounded_once() -> None:
    rng = np.random.default_rng(0)
    utility, harmful = (rng.gamma(1, 2, 5000).astype(np.float32) for _ in range(2))
    risk = token_risk(utility, harmful)
    assert risk.dtype == np.float32
    exact = utility.astype(np.float64) - harmful.astype(np.float64)  # exact: 24-bit numbers of like size
    np.testing.assert_array_equal(risk, exact.astype(np.float32))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_losses_that_are_no_numbers_are_refused(bad: float) -> None:
    good, broken = np.ones(3, np.float32), np.array([1, bad, 1], np.float32)
    with pytest.raises(ValueError, match="harmful losses hold NaN or infinity"):
        token_risk(good, broken)
    with pytest.raises(ValueError, match="utility losses hold NaN or infinity"):
        token_risk(broken, good)


def test_losses_of_the_wrong_kind_are_refused() -> None:
    ones = np.ones(3, np.float32)
    with pytest.raises(ValueError, match="float64"):
        token_risk(ones, np.ones(3))
    with pytest.raises(ValueError, match="shape"):
        token_risk(ones.reshape(1, 3), ones)
    with pytest.raises(ValueError, match="3 losses under one model and 2"):
        token_risk(ones, ones[:2])
    with pytest.raises(ValueError, match="exceeds float32"):
        token_risk(np.array([3e38], np.float32), np.array([-3e38], np.float32))
    assert len(token_risk(ones[:0], ones[:0])) == 0


# --- which tokens -------------------------------------------------------------------------------------------------


@given(rows=any_rows, share=shares)
@settings(max_examples=150, deadline=None)
def test_any_sharding_discards_what_a_global_sort_discards(rows: Rows, share: float) -> None:
    """The cut of the whole corpus needs nothing of its own: flat arrays in shard order are in tie order."""
    risk, _ = ragged(rows)
    count = drop_count_of(share, len(risk))
    triples = [(-value, sample, place) for sample, row in enumerate(rows) for place, value in enumerate(row)]
    chosen = {(sample, place) for _, sample, place in sorted(triples)[:count]}
    expected = [(sample, place) in chosen for sample, row in enumerate(rows) for place, _ in enumerate(row)]
    for number in (1, 2, 7):
        assert drop([ragged(part)[0] for part in shards_of(rows, number)], count).tolist() == expected


@given(rows=any_rows, share=shares)
@settings(max_examples=150, deadline=None)
def test_each_sample_loses_its_share(rows: Rows, share: float) -> None:
    risk, offsets = ragged(rows)
    expected: list[bool] = []
    for row in rows:
        count = int(Fraction(str(share)) * len(row))
        riskiest = sorted(range(len(row)), key=lambda place: (-row[place], place))[:count]
        expected += [place in riskiest for place in range(len(row))]
    discarded = discard_in_each(risk, offsets, share)
    assert discarded.dtype == np.bool_
    assert discarded.tolist() == expected
    counts = per_row_counts(discarded, offsets)
    assert counts.tolist() == [drop_count_of(share, len(row)) for row in rows]


def test_share_of_a_sample_is_the_written_decimal() -> None:
    offsets = np.array([0, 100, 100, 130], np.int64)
    discarded = discard_in_each(np.zeros(130, np.float32), offsets, 0.29)
    assert np.flatnonzero(discarded).tolist() == [*range(29), *range(100, 108)]


@pytest.mark.parametrize("offsets", [[], [1, 3], [0, 2], [0, 4], [0, 2, 1, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets: list[int]) -> None:
    wrong = np.array(offsets, np.int64)
    with pytest.raises(ValueError, match="do not cut 3 values"):
        discard_in_each(np.zeros(3, np.float32), wrong, 0.5)
    with pytest.raises(ValueError, match="do not cut 3 values"):
        highest_risk(np.zeros(3, np.float32), wrong)


def test_no_rows() -> None:
    none, offsets = ragged([])
    assert len(discard_in_each(none, offsets, 0.5)) == 0
    assert len(highest_risk(none, offsets)) == 0
    assert len(per_row_counts(none > 0, offsets)) == 0


def test_positions() -> None:
    assert positions(np.array([0, 2, 2, 5])).tolist() == [0, 1, 0, 1, 2]


# --- TOSS-Pro -----------------------------------------------------------------------------------------------------


def walk(rows: Rows, excluded: set[int], k: int) -> set[int]:
    """The round as the paper words it."""
    tokens = [(-value, sample, place) for sample, row in enumerate(rows) for place, value in enumerate(row)]
    added: list[int] = []
    for _, sample, _ in sorted(tokens):
        if len(added) == k:
            break
        if sample not in excluded and sample not in added:
            added.append(sample)
    return set(added)


@given(rows=any_rows, k=st.integers(0, 12), excluded=st.sets(st.integers(0, 11)))
@settings(max_examples=200, deadline=None)
def test_walking_the_tokens_adds_the_samples_of_highest_risk(rows: Rows, k: int, excluded: set[int]) -> None:
    expected = walk(rows, excluded, k)
    eligible = np.array([bool(row) and place not in excluded for place, row in enumerate(rows)], np.bool_)
    for number in (1, 2, 7):
        highest = [highest_risk(*ragged(part)) for part in shards_of(rows, number)]
        ends = np.cumsum([len(part) for part in highest])[:-1]
        candidates = [part[own] for part, own in zip(highest, np.split(eligible, ends), strict=True)]
        picked = drop(candidates, min(k, int(eligible.sum())))
        assert set(np.flatnonzero(eligible)[picked].tolist()) == expected


@given(rows=any_rows)
@settings(max_examples=80, deadline=None)
def test_highest_risk_is_the_maximum(rows: Rows) -> None:
    highest = highest_risk(*ragged(rows))
    assert highest.dtype == np.float32
    assert highest.tolist() == [max(np.float32(row), default=-np.inf) for row in rows]


# --- what a trainer reads -----------------------------------------------------------------------------------------


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Per row its token ids and response ranges; some empty, some touching."""
    rows = []
    for length in draw(st.lists(st.integers(0, 9), max_size=6)):
        edges = sorted(draw(st.lists(st.integers(0, length), max_size=6)))
        ranges = list(zip(edges[0::2], edges[1::2], strict=False))
        rows.append((draw(st.lists(st.integers(0, 99), min_size=length, max_size=length)), ranges))
    return rows


@given(rows=conversations(), data=st.data())
@settings(max_examples=150, deadline=None)
def test_training_columns(rows: list[tuple[list[int], list[tuple[int, int]]]], data: st.DataObject) -> None:
    inside = [any(start <= place < stop for start, stop in spans) for ids, spans in rows for place, _ in enumerate(ids)]
    total = sum(inside)
    risk = np.arange(1, total + 1, dtype=np.float32)
    discarded = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), np.bool_)
    input_ids, offsets = ragged([ids for ids, _ in rows])
    starts, range_offsets = ragged([[start for start, _ in spans] for _, spans in rows])
    stops, _ = ragged([[stop for _, stop in spans] for _, spans in rows])
    labels, spread, scored = training_columns(
        input_ids.astype(np.int32), offsets, starts.astype(np.int32), stops.astype(np.int32), range_offsets,
        risk, discarded,
    )  # fmt: skip
    assert (labels.dtype, spread.dtype, scored.dtype) == (np.int64, np.float32, np.bool_)
    assert scored.tolist() == inside
    assert spread[scored].tolist() == risk.tolist()
    lost = iter(discarded.tolist())
    flat = [token for ids, _ in rows for token in ids]
    assert labels.tolist() == [
        token if here and not next(lost) else IGNORED for token, here in zip(flat, inside, strict=True)
    ]


@pytest.mark.parametrize(
    ("starts", "stops", "message"),
    [
        ([0], [3], "in order and apart"),  # runs into the next row
        ([-1], [1], "in order and apart"),
        ([1], [0], "in order and apart"),
        ([0, 0], [1, 2], "in order and apart"),
        ([0], [2], "2 response tokens, 1 risks"),
        ([0], [1, 2], "1 starts, 2 stops"),
    ],
)
def test_ranges_that_do_not_fit_are_refused(starts: list[int], stops: list[int], message: str) -> None:
    ids, offsets = np.arange(4, dtype=np.int32), np.array([0, 2, 4], np.int64)
    range_offsets = np.array([0, len(starts), len(starts)], np.int64)
    with pytest.raises(ValueError, match=message):
        training_columns(
            ids, offsets, np.array(starts), np.array(stops), range_offsets, np.ones(1, np.float32), np.zeros(1, bool)
        )


def test_rows_of_tokens_and_of_responses_must_match() -> None:
    ids, none = np.arange(4, dtype=np.int32), np.zeros(0, np.int64)
    with pytest.raises(ValueError, match="2 rows of tokens, 1 of responses"):
        training_columns(
            ids, np.array([0, 2, 4]), none, none, np.array([0, 0]), np.zeros(0, np.float32), np.zeros(0, bool)
        )


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.lists(st.integers(0, 9), max_size=12), st.lists(st.integers(0, 12), max_size=6, unique=True).map(sorted)
        ),
        max_size=5,
    ),
    controls=st.frozensets(st.integers(0, 9), max_size=4),
)
def test_the_end_of_a_turn_is_the_first_control_token_behind_its_answer(
    rows: list[tuple[list[int], list[int]]], controls: frozenset[int]
) -> None:
    ids: list[int] = []
    offsets, stops, ranges, expected = [0], [], [0], set()
    for tokens, edges in rows:
        edges = [edge for edge in edges if edge <= len(tokens)]
        for stop in edges[1::2]:
            near = [place for place in range(stop, min(stop + REACH, len(tokens))) if tokens[place] in controls]
            expected |= {len(ids) + near[0]} if near else set()
            stops.append(stop)
        ids += tokens
        offsets.append(len(ids))
        ranges.append(len(stops))
    found = turn_ends(
        np.array(ids, dtype=np.int32), np.array(offsets), np.array(stops, dtype=np.int32), np.array(ranges), controls
    )
    assert found.tolist() == sorted(expected)


@pytest.mark.parametrize(
    ("kind", "given", "trained"),
    [
        (Toss, [], ("utility", "harmful")),
        (Toss, ["harmful"], ("utility",)),
        (Toss, ["utility", "harmful"], ()),
        (TossPro, [], ("utility", "harmful")),
        (TossPro, ["utility", "harmful"], ("harmful",)),  # a given one is trained again
    ],
)
def test_which_models_are_trained(kind: type[Toss], given: list[str], trained: tuple[str, ...]) -> None:
    assert kind.trained(given) == trained


@pytest.mark.parametrize(
    ("kind", "references", "given", "says"),
    [
        (Toss, [], [], "toss.utility_references"),
        (Toss, ["harmful"], ["harmful"], "toss.utility_model"),
        (Toss, ["utility"], [], None),
        (Toss, [], ["utility", "harmful"], None),
        (TossPro, [], [], "toss-pro compares with a model trained on good data"),
        (TossPro, ["utility"], [], None),
        (TossPro, ["utility"], ["harmful"], "it needs toss.harmful_references"),
        (TossPro, ["utility", "harmful"], ["harmful"], None),
    ],
)
def test_what_a_job_must_name(kind: type[Toss], references: list[str], given: list[str], says: str | None) -> None:
    complaint = kind.complaint(references, given)
    assert complaint is None if says is None else says in (complaint or "")


def test_rounds_are_those_of_toss_pro() -> None:
    assert (Toss().repeats(), TossPro().repeats(), TossPro(rounds=3).repeats()) == (0, 1, 3)
    assert (TossPro().added(70), TossPro(samples_per_round=5).added(70)) == (70, 5)
    assert "in rounds" in TossPro.explain({})
    assert "in rounds" not in Toss.explain({})
