"""The charts, read back: a value is where the labels of the axis say it is, and no label leaves or covers another."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from chart_reader import Chart, assert_neat, value
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tamis.pipeline.report import charts, svg
from tamis.pipeline.report.charts import Curve, Words
from tamis.pipeline.report.svg import nice_ceiling

COUNTS = Words("A title", "samples", "score", "count")
SHARES = Words("A title", "share", "place", "share")
NUMBERS = Words("A title", "height", "place")


def test_a_histogram_stacks_what_went_on_what_stayed() -> None:
    bins = {"edges": [0, 1, 2, 4], "kept": [90, 60, 0], "gone": [0, 30, 40]}
    chart = Chart(charts.histogram(bins, 1.5, COUNTS, "gone", "scores"))
    kept, gone = chart.bars("plain"), chart.bars("marked")
    assert [chart.height(top) for _, _, top, _ in kept] == pytest.approx([90, 60], abs=0.1)
    assert [chart.height(top) for _, _, top, _ in gone] == pytest.approx([90, 40], abs=0.1)
    assert [chart.height(foot) for *_, foot in gone] == pytest.approx([60, 0], abs=0.1)
    assert [(chart.across(left), chart.across(right)) for left, right, *_ in gone] == [
        (pytest.approx(1, abs=0.01), pytest.approx(2, abs=0.01)),
        (pytest.approx(2, abs=0.01), pytest.approx(4, abs=0.01)),
    ]
    (cut,) = chart.kind("cut")
    assert chart.across(float(cut.get("x1", "nan"))) == pytest.approx(1.5, abs=0.01)
    assert chart.values == ["cut 1.50"]
    assert chart.words == "150 samples kept and 70 gone, scores from 0 to 4.000, cut at 1.50000"


def test_a_histogram_shows_one_dropped_row_beside_a_hundred_thousand() -> None:
    bins = {"edges": [0, 1, 2, 3], "kept": [100_000, 10, 0], "gone": [0, 1, 20]}
    picture = charts.histogram(bins, 7.0, COUNTS, "gone", "scores")
    chart = Chart(picture)
    assert "samples (log scale)" in str(picture)
    assert [chart.power(top) for _, _, top, _ in chart.bars("plain")] == pytest.approx([100_000, 10], rel=0.01)
    assert [chart.power(top) for _, _, top, _ in chart.bars("marked")] == pytest.approx([1, 20], rel=0.01)
    beside = chart.bars("plain")[1][1], chart.bars("marked")[0][0]
    assert beside[0] < beside[1], "logarithmic heights do not add up"
    assert chart.kind("cut") == []
    assert chart.words.endswith("cut at 7.00000 (outside of the plot)")
    flat = Chart(charts.histogram({**bins, "kept": [10_000_000, 0, 0], "gone": [0, 0, 9]}, None, COUNTS, "gone", "s"))
    assert min(foot - top for _, _, top, foot in flat.bars("marked")) >= 1.5


@pytest.mark.parametrize(
    "bins",
    [
        {},
        {"edges": [], "kept": [], "gone": []},
        {"edges": [0, 1], "kept": [0], "gone": [0]},
        {"edges": [0, 1], "kept": [1, 2], "gone": [0, 0]},
        {"edges": [0, float("inf")], "kept": [1], "gone": [0]},
    ],
)
def test_a_histogram_that_cannot_be_drawn_is_left_out(bins: dict[str, list[float]]) -> None:
    assert charts.histogram(bins, 0.5, COUNTS, "gone", "scores") is None


@pytest.mark.parametrize("edges", [[0.5, 0.5], [0, 5e-324], [1e6, math.nextafter(1e6, 2e6)]])
def test_scores_that_are_all_equal_are_drawn_as_one_bin(edges: list[float]) -> None:
    picture = charts.histogram({"edges": edges, "kept": [3], "gone": [0]}, edges[0], COUNTS, "gone", "scores")
    assert_neat(picture)
    assert Chart(picture).height(Chart(picture).bars("plain")[0][2]) == pytest.approx(3, abs=0.02)


def test_the_numbers_of_a_histogram_are_those_of_its_bins() -> None:
    bins = {"edges": [0.0, 0.5, 1.0, 2.0], "kept": [4, 0, 0], "gone": [0, 0, 2]}
    assert charts.filled(bins, "gone") == [(0.0, 0.5, 4, 0), (1.0, 2.0, 0, 2)]


def test_columns_stand_on_zero_and_one_may_stand_out() -> None:
    picture = charts.columns([0.25, -0.125, None, 0.0], list("abcd"), NUMBERS, (1,), level=0.2, each="block {}")
    chart = Chart(picture)
    ((_, _, top, foot),) = chart.bars("plain")
    assert (chart.height(top), chart.height(foot)) == pytest.approx((0.25, 0.0), abs=0.001)
    ((_, _, top, foot),) = chart.bars("marked")
    assert (chart.height(top), chart.height(foot)) == pytest.approx((0.0, -0.125), abs=0.001)
    (level,) = chart.kind("overall")
    assert chart.height(float(level.get("y1", "nan"))) == pytest.approx(0.2, abs=0.001)
    assert chart.words == "block a: 0.25; block b: -0.125; block c: –; block d: 0"
    middles = [(left + right) / 2 for left, right, *_ in [*chart.bars("plain"), *chart.bars("marked")]]
    assert middles == pytest.approx([x for x, _ in chart.below[:2]], abs=0.1)
    assert charts.columns([None], ["a"], NUMBERS) is None


def test_columns_of_counts_change_to_a_log_scale() -> None:
    chart = Chart(charts.columns([200_000, 0, 3], ["none", "5 %", "10 %"], COUNTS, (1, 2)))
    assert [chart.power(bars[0][2]) for bars in (chart.bars("plain"), chart.bars("marked"))] == pytest.approx(
        [200_000, 3], rel=0.02
    )
    assert chart.words == "none: 200,000; 5 %: 0; 10 %: 3"
    alike = Chart(charts.columns([150, 3], ["a", "b"], COUNTS))
    assert alike.height(alike.bars("plain")[1][2]) == pytest.approx(3, abs=0.5)
    assert [count for count, _ in Chart(charts.columns([1], ["a"], COUNTS)).ticks] == [0, 1], (
        "no label for a part of a sample"
    )


def test_columns_may_have_their_values_in_words() -> None:
    many = [f"{10**n:,}–{10 ** (n + 1):,}" for n in range(10)]
    assert_neat(charts.columns([0.0, *[1 / n for n in range(1, 10)]], many, SHARES, written=["< 0.01 %"] * 10))
    chart = Chart(
        charts.columns([0.1, 0.0], ["1–9", "10"], SHARES, (0, 1), each="{} tokens", written=["10.0 %", "0 %"])
    )
    assert chart.values == ["10.0 %", "0 %"]
    assert chart.words == "1–9 tokens: 10.0 %; 10 tokens: 0 %"


def test_curves_go_through_their_points_and_end_in_their_names() -> None:
    points = [(0.0, 2.0), (0.5, 1.25), (2.0, 1.0)]
    chart = Chart(charts.curves([Curve("first", "plain", points), Curve("second", "marked", [(1.0, 3.0)])], NUMBERS))
    (line,) = chart.kind("plain")
    drawn = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
    assert [chart.across(x) for x, _ in drawn] == pytest.approx([x for x, _ in points], abs=0.01)
    assert [chart.height(y) for _, y in drawn] == pytest.approx([y for _, y in points], abs=0.01)
    assert sorted(filter(None, chart.values)) == ["first", "second"]
    assert len(list(chart.root.iter("circle"))) == 1, "a line of one point is a dot"
    assert chart.words == "first: 2 at 0, 1 at 2; second: 3 at 1, 3 at 1"
    assert charts.curves([Curve("none", "plain", [])], NUMBERS) is None


def test_a_bar_of_a_table_and_the_bar_of_all_rows_add_up() -> None:
    assert '<rect class="marked" width="50.000%"' in charts.share_bar(0.1, 0.2, 0.05)
    assert 'x1="25.000%"' in charts.share_bar(0.1, 0.2, 0.05)
    whole = str(charts.composition([("kept", 3), ("dropped", 1)]))
    assert '<rect class="dropped" x="75.000%" width="25.000%"' in whole
    assert 'aria-label="75.0 % kept, 25.0 % dropped"' in whole
    assert charts.composition([("kept", 0)]) is None


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1), (-3, 3), (0.99900, 0.99950), (1e6, 1e6 + 2), (-1e-7, 1e-7), (0, 3e9), (-1e12, 1e12), (0, 1e-12), (2, 2.4)],
)
def test_the_labels_of_an_axis_say_where_they_stand(low: float, high: float) -> None:
    ticks = svg.round_within(low, high)
    said = svg.marks(ticks, "number")
    step = ticks[1] - ticks[0]
    assert all(abs(value(words) - at) <= step / 100 for at, words in said)
    assert len({words for _, words in said}) == len(said)


@given(
    st.lists(st.integers(0, 10**9), min_size=1, max_size=60),
    st.floats(-1e6, 1e6),
    st.floats(1e-9, 1e6),
    st.integers(0, 10**9),
    st.text(max_size=300),
)
@example([1, 1, 1], 0.0, 1e6, 0, "x")
@example([3], 999_999.0, 1e-6, 0, "漢" * 200)
@settings(deadline=None, max_examples=40)
def test_histograms_are_neat(kept: list[int], low: float, width: float, gone: int, outside: str) -> None:
    bins = {
        "edges": [low + width * i / len(kept) for i in range(len(kept) + 1)],
        "kept": kept,
        "gone": [*[0] * (len(kept) - 1), gone],
    }
    picture = charts.histogram(bins, low + width, Words("t", "samples", outside, "count"), "gone", "scores")
    if picture is not None:
        assert_neat(picture)


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([5e-324, -1e-300]), min_size=1, max_size=120),
    st.integers(0, 119),
    st.sampled_from([NUMBERS, SHARES]),
)
@example([1000.0, 1000.1], 1, NUMBERS)
@example([5e-324], 0, NUMBERS)
@example([1.0] * 90, 11, NUMBERS)
@settings(deadline=None, max_examples=40)
def test_columns_are_neat(values: Sequence[float | None], marked: int, said: Words) -> None:
    if said.unit == "share":
        values = [None if value is None else abs(value) / 1e6 for value in values]
    ranges = [f"{2**n:,}–{2 ** (n + 1):,}" for n in range(len(values))]
    plain = [str(n) for n in range(len(values))]
    for labels in (plain, ranges[:30]):
        picture = charts.columns(values[:30] if labels is not plain else values, labels, said, (marked % len(labels),))
        if picture is not None:
            assert_neat(picture)


@given(
    st.lists(
        st.tuples(st.text(max_size=40), st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6)), max_size=9)),
        min_size=1,
        max_size=30,
    )
)
@example([("harmful-10", [(float(n), 1000.0 + n / 10) for n in range(5)])])
@example([(f"harmful-{n}", [(0.0, 1.0), (93.0, 1.0)]) for n in range(20)])
@settings(deadline=None, max_examples=40)
def test_curves_are_neat(drawn: list[tuple[str, list[tuple[float, float]]]]) -> None:
    for across in ("number", "count"):
        said = Words("t", "loss", "step", across=across)
        picture = charts.curves([Curve(name, "plain", sorted(points)) for name, points in drawn if points], said)
        if picture is not None:
            assert_neat(picture)


@pytest.mark.parametrize(("low", "high"), [(0.21, 0.25), (1.0, 1.0), (51, 100), (2.1e-9, 2.5e-9)])
def test_axes_end_at_round_numbers(low: float, high: float) -> None:
    assert nice_ceiling(low) == pytest.approx(high)
