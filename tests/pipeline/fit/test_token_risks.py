"""The exact cut over all response tokens and the samples a round adds, against sorts and walks in plain Python."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from plan_jobs import lines_of, rows_of
from token_shards import Samples, Scored, scored, shard_of, write_losses, write_round, write_shards

from tamis.operators.statistics.selection import drop_count_of
from tamis.pipeline.capture.spec import Captured
from tamis.pipeline.capture.token_tables import read_tokens
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster, Machine
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.emit.token_publish import Round
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.fit import exact_cut
from tamis.pipeline.fit.token_risks import (
    TokenCut,
    chosen_rows,
    digest,
    discarded_tokens,
    pick_samples,
    select_tokens,
    shared_rows,
)
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.job.job_file import load_job
from tamis.pipeline.planning.plan import make_plan
from tamis.pipeline.recipes.tokens import _Run
from tamis.pipeline.run.lease import held
from tamis.pipeline.storage.store import Store


@pytest.fixture(autouse=True, scope="module")
def session(ray_address: str) -> Iterator[None]:
    with ray_session(ray_address), pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_cut, "GROUP", 2)  # so that several tasks have something to add up
        yield


def random_samples(seed: int, rows: int, values: list[float] | None = None) -> list[Scored | None]:
    chance = random.Random(seed)
    made: list[Scored | None] = []
    for number in range(rows):
        count = chance.randint(1, 9)
        risk = [chance.choice(values) if values else chance.gauss(0, 3) for _ in range(count)]
        made.append(None if chance.random() < 0.1 else Scored(tuple(risk), first=100 * number))
    return made


def as_float32(samples: Samples) -> list[list[float]]:
    return [np.array(row.risk, np.float32).tolist() for row in samples if row is not None]


def naive_mask(samples: Samples, share: float) -> list[bool]:
    """One sort of all tokens: the riskiest first, ties by sample, then by place."""
    tokens = [(-risk, row, place) for row, risks in enumerate(as_float32(samples)) for place, risk in enumerate(risks)]
    fallen = {(row, place) for _, row, place in sorted(tokens)[: drop_count_of(share, len(tokens))]}
    return [(row, place) in fallen for row, risks in enumerate(as_float32(samples)) for place in range(len(risks))]


def found_mask(store: Store, shards: list[Shard], share: float, scope: str = "global", round: int = 0) -> list[bool]:
    files = scored(store, shards, round)
    selection = select_tokens(store, files, share, scope)
    mask: list[bool] = []
    for file, quota in zip(files, selection.quotas, strict=True):
        mask += discarded_tokens(read_tokens(store, file).risk, selection.cut, quota).tolist()
    assert selection.discarded in (None, sum(mask))
    assert selection.sums.count == len(mask)
    return mask


CASES: dict[str, tuple[list[Scored | None], float]] = {
    "all different": (random_samples(1, 40), 0.1),
    "many ties": (random_samples(2, 40, [-1.0, -0.25, 0.5, 3.0]), 0.3),
    "two zeros": (random_samples(3, 30, [-0.0, 0.0]), 0.4),
    "zeros at the cut": (random_samples(4, 30, [-0.0, 0.0, 0.0, -1.0, 2.0]), 0.45),
    "nearly all": (random_samples(5, 20, [0.0, 1e-45, -1e-45, 3e38]), 0.99),
    "one token": ([None, Scored((0.5,)), None, None, None, None, None], 0.5),
    "two tokens": ([Scored((0.5,)), *[None] * 6, Scored((0.5,))], 0.5),
    "too small a share": (random_samples(6, 15), 0.001),
    "empty shards": ([*[None] * 9, *random_samples(7, 20), *[None] * 9], 0.2),
    "a decimal share": (random_samples(8, 50, [0.0, 0.25]), 0.29),
}


@pytest.mark.parametrize("case", CASES)
def test_the_mask_is_that_of_one_sort_of_all_tokens_however_they_are_sharded(case: str, tmp_path: Path) -> None:
    samples, share = CASES[case]
    expected = naive_mask(samples, share)
    for count in (1, 2, 7):
        store = Store(str(tmp_path / str(count)))
        assert found_mask(store, write_shards(store, samples, count), share) == expected, count


def test_what_a_selection_says(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = [Scored((0.5, 2.0, 0.5)), None, Scored((-1.0, 0.5)), Scored((4.0,))]
    selection = select_tokens(store, scored(store, write_shards(store, samples, 2)), 0.5, "global")
    assert selection.cut.threshold is not None
    assert (selection.discarded, selection.cut.threshold.value, selection.at_cut) == (3, 0.5, 3)
    assert selection.quotas == (1, 0)
    sums = selection.sums
    assert (sums.count, sums.low, sums.high, sums.total) == (6, -1.0, 4.0, 6.5)


def test_no_token_at_all(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for scope in ("global", "sample"):
        with pytest.raises(ConfigError, match="all rows are quarantined"):
            select_tokens(store, scored(store, write_shards(store, [None, None], 1)), 0.5, scope)


@pytest.mark.parametrize("values", [None, [0.0, -0.0, 1.0]])
def test_a_share_of_each_sample(values: list[float] | None, tmp_path: Path) -> None:
    samples = random_samples(9, 40, values)
    expected = [fallen for row in samples if row is not None for fallen in naive_mask([row], 0.3)]
    assert any(expected)
    for count in (1, 2, 7):
        store = Store(str(tmp_path / str(count)))
        shards = write_shards(store, samples, count)
        assert found_mask(store, shards, 0.3, "sample") == expected
        selection = select_tokens(store, scored(store, shards), 0.3, "sample")
        assert (selection.cut.threshold, selection.discarded) == (None, None)


# --- the samples that a round adds --------------------------------------------------------------------------------


def naive_walk(samples: Samples, count: int, excluded: set[int]) -> list[int]:
    """All tokens from the riskiest down; each adds its sample, unless it is there already or excluded."""
    tokens = [
        (-risk, row, place)
        for row, sample in enumerate(samples)
        if sample is not None
        for place, risk in enumerate(np.array(sample.risk, np.float32).tolist())
    ]
    added: list[int] = []
    for _, row, _ in sorted(tokens):
        if len(added) < count and row not in added and row not in excluded:
            added.append(row)
    return sorted(added)


def by_shard(shards: list[Shard], rows: set[int]) -> dict[str, list[int]]:
    spans = {shard.name: range(shard.span.start_row, shard.span.stop_row) for shard in shards}
    places = {name: [row - span.start for row in sorted(rows) if row in span] for name, span in spans.items()}
    return {name: found for name, found in places.items() if found}


@pytest.mark.parametrize("values", [None, [-1.0, 0.5, 0.5, 2.0], [0.0, -0.0]])
@pytest.mark.parametrize("count", [1, 6, 1000])
def test_picked_samples_are_those_of_the_walk(values: list[float] | None, count: int, tmp_path: Path) -> None:
    samples = random_samples(10, 40, values)
    for excluded in (set[int](), {3, 4, 5, 20, 39}):
        for parts in (1, 7):
            store = Store(str(tmp_path / f"{parts}-{len(excluded)}"))
            shards = write_shards(store, samples, parts)
            picked = pick_samples(store, scored(store, shards), count, by_shard(shards, excluded))
            assert picked == by_shard(shards, set(naive_walk(samples, count, excluded)))


def test_nothing_is_left_to_pick(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shards = write_shards(store, [Scored((1.0,)), None, Scored((2.0,))], 2)
    assert pick_samples(store, scored(store, shards), 5, by_shard(shards, {0, 2})) == {}


def test_a_later_round_decides_by_its_own_losses_and_without_what_it_refused(tmp_path: Path) -> None:
    first = random_samples(11, 30, [-2.0, 0.25, 1.0, 3.5])
    chance = random.Random(12)
    later: list[Scored | None] = [
        None
        if row is None or number % 7 == 0
        else Scored(tuple(chance.choice([-1.5, 0.0, 0.75, 4.0]) for _ in row.risk), first=row.first)
        for number, row in enumerate(first)
    ]
    store = Store(str(tmp_path))
    shards = write_shards(store, first, 4)
    for shard in shards:
        write_round(store, shard, later[shard.span.start_row : shard.span.stop_row], 1)
    assert found_mask(store, shards, 0.2, round=1) == naive_mask(later, 0.2)
    assert found_mask(store, shards, 0.2, round=0) == naive_mask(first, 0.2)
    picked = pick_samples(store, scored(store, shards, 1), 8, by_shard(shards, {2}))
    expected = naive_walk(later, 8, {2})
    assert picked == by_shard(shards, set(expected))
    assert [row.input_ids.tolist() for row in chosen_rows(store, scored(store, shards), picked)] == [
        sample.input_ids for row in expected if (sample := first[row]) is not None
    ]


def test_chosen_rows_have_their_tokens_and_all_their_answers(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = [
        None,
        Scored((1.0, 1.0), first=30),
        Scored((0.0, 1.0, 2.0, 3.0), answers=(1, 3), first=50),
        None,
        Scored((1.0, 2.0, 3.0), answers=(1, 1, 1), first=70),
        Scored((1.0,), first=90),
    ]
    shards = write_shards(store, samples, 2)
    found = chosen_rows(store, scored(store, shards), {shards[1].name: [1, 2], shards[0].name: [2]})
    assert [row.input_ids.tolist() for row in found] == [
        list(range(50, 58)),
        list(range(70, 79)),
        list(range(90, 93)),
    ]
    assert [row.responses for row in found] == [((2, 3), (5, 8)), ((2, 3), (5, 6), (8, 9)), ((2, 3),)]
    assert all(row.input_ids.dtype == np.int32 and not row.truncated for row in found)
    assert chosen_rows(store, scored(store, shards), {}) == []


def test_shared_rows_are_those_of_the_same_tokens(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    samples = [Scored((1.0,), first=10), None, Scored((1.0,), first=20), Scored((2.0,), first=10), Scored((1.0, 1.0))]
    shards = write_shards(store, samples, 3)
    shards.append(shard_of(9, 5, 6))
    write_losses(store, shards[-1], [Scored((1.0,), first=20)])
    known = {
        "harmful": frozenset({digest(np.arange(10, 13)), digest(np.arange(99, 105))}),
        "utility": frozenset({digest(np.arange(20, 23, dtype=np.int64))}),
        "none": frozenset[bytes](),
    }
    assert shared_rows(store, scored(store, shards), known) == {
        "harmful": by_shard(shards, {0, 3}),
        "utility": by_shard(shards, {2, 5}),
        "none": {},
    }


@pytest.mark.parametrize(("share", "cut"), [(0.5, 1.0), (1e-9, None)])
def test_every_round_of_a_run_can_be_written_as_json(
    share: float, cut: float | None, tmp_path: Path, tiny_model: Path, ray_address: str
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.jsonl").write_bytes(lines_of(rows_of(3)))
    for role in ("good", "bad"):
        (tmp_path / f"{role}.jsonl").write_bytes(lines_of(rows_of(2)))
    overlay = {
        "input.path": [str(tmp_path / "data")], "output": str(tmp_path / "out"), "model.name": str(tiny_model),
        "method": ["toss-pro"], "toss.discard": share, "toss.utility_references": str(tmp_path / "good.jsonl"),
        "toss.harmful_references": str(tmp_path / "bad.jsonl"),
    }  # fmt: skip
    plan = make_plan(load_job(None, overlay))
    store = Store(str(tmp_path / "out"))
    samples = [Scored((1.0, 1.0, 0.0)), Scored((0.0,)), Scored((-1.0, 2.0))]
    [shard] = plan.shards
    write_losses(store, shard, samples)
    write_round(store, shard, samples, 1)
    cluster = Cluster(ray_address, (Machine(2.0),))
    with held(store) as lease:
        run = _Run(plan, store, cluster, lease, {}, rounds=[Round(0, None), Round(1, 2)])
        [files] = scored(store, [shard], 1)
        assert files.later is not None
        for file in (files.first, files.later):
            run.losses.append(CaptureTotals(captured={shard.name: Captured(file, "")}))
        selection = run.select()
    assert [round.cut for round in run.rounds] == [cut, cut] == [selection.cut.shown] * 2
    json.dumps([asdict(round) for round in run.rounds], allow_nan=False)


def test_a_sample_has_a_cut_of_its_own_so_none_is_shown() -> None:
    assert TokenCut(0.1, None).shown is None
