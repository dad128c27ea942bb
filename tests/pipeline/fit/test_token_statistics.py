"""What the report says of masked tokens, against counts in plain Python, however the corpus is sharded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from token_shards import Scored, scored, write_round, write_shards

from tamis.operators.methods.toss_statistics import SHARE_BINS
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.fit import exact_cut
from tamis.pipeline.fit.token_risks import RiskSums, select_tokens
from tamis.pipeline.fit.token_statistics import (
    BINS,
    EXAMPLES,
    TokenStatistics,
    overlap,
    plotted_range,
    token_statistics,
)
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.storage.store import Store

VOCABULARY = 400
SHARE = 0.2


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_cut, "GROUP", 2)
        yield


def samples_of(seed: int) -> list[Scored | None]:
    chance = random.Random(seed)
    made: list[Scored | None] = []
    for _ in range(60):
        answers = tuple(chance.randint(1, 6) for _ in range(chance.randint(1, 3)))
        level = chance.choice([-2.0, 0.0, 2.0])
        risk = tuple(level + chance.randint(-8, 8) / 4 for _ in range(sum(answers)))
        made.append(None if chance.random() < 0.1 else Scored(risk, answers, first=chance.randint(0, 350)))
    return made


SAMPLES = [*samples_of(1), Scored((5.0, 5.0)), *samples_of(4)[:5], Scored((6.0,))]
"""Two of them lose every token."""
TOKENS = [
    (risk, place, token, row)
    for row, sample in enumerate(SAMPLES)
    if sample is not None
    for risk, (place, token) in zip(
        sample.risk,
        [(at - start, sample.first + at) for start, stop in sample.ranges for at in range(start, stop)],
        strict=True,
    )
]
"""(risk, place in its answer, token, sample) of every response token."""

FALLEN = set(sorted(range(len(TOKENS)), key=lambda token: (-TOKENS[token][0], token))[: int(SHARE * len(TOKENS))])
LOST = {row: sum(TOKENS[token][3] == row for token in FALLEN) for row, item in enumerate(SAMPLES) if item is not None}


def found_in(folder: Path, count: int) -> tuple[TokenStatistics, list[Shard]]:
    store = Store(str(folder / str(count)))
    shards = write_shards(store, SAMPLES, count)
    files = scored(store, shards)
    selection = select_tokens(store, files, SHARE, "global")
    return token_statistics(store, files, selection, VOCABULARY), shards


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[TokenStatistics, list[Shard]]]:
    folder = tmp_path_factory.mktemp("statistics")
    return [found_in(folder, count) for count in (1, 7)]


def test_counts_are_those_of_a_loop(results: list[tuple[TokenStatistics, list[Shard]]]) -> None:
    for found, _ in results:
        low, high = min(token[0] for token in TOKENS), max(token[0] for token in TOKENS)
        shown = found.for_report(low, high)
        edges = shown["risk_histogram"]["edges"]
        assert (edges[0], edges[-1], len(edges)) == (low, high, BINS + 1)
        for name, wanted in (("kept", False), ("discarded", True)):
            risks = [risk for number, (risk, *_) in enumerate(TOKENS) if (number in FALLEN) == wanted]
            assert shown["risk_histogram"][name] == np.histogram(risks, edges)[0].tolist()
        assert shown["positions"] == [
            {
                "low": place,
                "high": place,
                "tokens": sum(token[1] == place for token in TOKENS),
                "mean_risk": pytest.approx(np.mean([token[0] for token in TOKENS if token[1] == place])),
                "discarded": sum(TOKENS[number][1] == place for number in FALLEN),
            }
            for place in range(6)
        ]
        for token in range(VOCABULARY):
            assert found.by_token.counts[token] == sum(item[2] == token for item in TOKENS)
            assert found.by_token.discarded[token] == sum(TOKENS[number][2] == token for number in FALLEN)


def test_shares_of_samples_are_those_of_a_loop(results: list[tuple[TokenStatistics, list[Shard]]]) -> None:
    shares = [lost / len(scored.risk) for row, lost in LOST.items() if (scored := SAMPLES[row]) is not None]
    some = [min(int(SHARE_BINS * share + 1e-9), SHARE_BINS - 1) for share in shares if share]
    for found, _ in results:
        shown = found.for_report(0.0, 1.0)["sample_shares"]
        assert shown["rows"] == [some.count(bin) for bin in range(SHARE_BINS)]
        assert (shown["none"], shown["all"]) == (shares.count(0), shares.count(1))
        assert shares.count(1)
        assert sum(shown["rows"]) + shown["none"] == len(shares)


def test_examples_are_the_first_of_their_ranking(results: list[tuple[TokenStatistics, list[Shard]]]) -> None:
    rows = {row: sample for row, sample in enumerate(SAMPLES) if sample is not None}
    share = {row: LOST[row] / len(sample.risk) for row, sample in rows.items()}
    peak = {row: max(sample.risk) for row, sample in rows.items()}
    expected = {
        "most": sorted((row for row in rows if LOST[row]), key=lambda row: (-share[row], -LOST[row], row)),
        "part": sorted((row for row in rows if 0.1 < share[row] < 0.7), key=lambda r: (-peak[r], -share[r], r)),
        "border": sorted((row for row in rows if not LOST[row]), key=lambda row: (-peak[row], row)),
    }
    for found, shards in results:
        for group, count in EXAMPLES.items():
            shown = [item for item in found.examples if item.group == group]
            places = [shards[item.shard].span.start_row + item.place for item in shown]
            assert places == expected[group][:count]
            assert [(item.tokens, item.discarded) for item in shown] == [
                (len(rows[row].risk), LOST[row]) for row in places
            ]


def test_one_risk_for_all_tokens(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    files = scored(store, write_shards(store, [Scored((0.5, 0.5)), Scored((0.5, 0.5))], 2))
    selection = select_tokens(store, files, 0.5, "global")
    found = token_statistics(store, files, selection, VOCABULARY)
    assert (found.histogram.counts.sum(), found.histogram.discarded.sum()) == (4, 2)
    assert (found.untouched, found.by_sample.emptied) == (1, 1)


def test_the_overlap_of_two_rounds(tmp_path: Path) -> None:
    later = samples_of(2)[:50] + SAMPLES[50:]
    chance = random.Random(3)
    samples = [
        None
        if item is None or later[row] is None
        else Scored(tuple(chance.choice([-1.0, 0.25, 2.0]) for _ in item.risk))
        for row, item in enumerate(SAMPLES)
    ]
    final = [risk for sample in samples if sample is not None for risk in sample.risk]
    order = sorted(range(len(final)), key=lambda token: (-final[token], token))
    fallen_at_last = set(order[: int(SHARE * len(final))])
    number, both = -1, 0
    for token, (_, _, _, row) in enumerate(TOKENS):
        if samples[row] is not None:
            number += 1
            both += token in FALLEN and number in fallen_at_last
    for count in (1, 5):
        store = Store(str(tmp_path / str(count)))
        shards = write_shards(store, SAMPLES, count)
        for shard in shards:
            write_round(store, shard, samples[shard.span.start_row : shard.span.stop_row], 1)
        first, last = (scored(store, shards, round) for round in (0, 1))
        cut, last_cut = (select_tokens(store, files, SHARE, "global") for files in (first, last))
        assert overlap(store, first, cut, last, last_cut) == both / len(FALLEN)
        assert overlap(store, last, last_cut, last, last_cut) == 1.0
        nothing = select_tokens(store, first, 1e-6, "global")
        assert overlap(store, first, nothing, last, last_cut) is None


def test_the_plot_spans_the_risk_or_something_around_the_only_one() -> None:
    assert plotted_range(RiskSums(np.ones(1, dtype=np.int64), -1.0, 2.0, 0.0)) == (-1.0, 2.0)
    assert plotted_range(RiskSums(np.ones(1, dtype=np.int64), 0.0, 0.0, 0.0)) == (-0.5, 0.5)
