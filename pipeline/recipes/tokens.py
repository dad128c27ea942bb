"""TOSS and TOSS-Pro, from top to bottom: the reference models, the losses of every token, the cut, the output.

Every stage skips the work that an earlier, interrupted run of the same job has done. To resume, run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from tamis.operators.tokens.tokenised import Tokenised
from tamis.pipeline.capture.driver import capture
from tamis.pipeline.capture.spec import capture_spec
from tamis.pipeline.capture.stage import Captures, Timings, check_precision, run_capture
from tamis.pipeline.capture.token_losses import LossSpec, ReferenceModel, TokenScorer
from tamis.pipeline.capture.token_tables import HARMFUL, UTILITY, LossFiles, stage_of
from tamis.pipeline.capture.totals import CaptureTotals
from tamis.pipeline.cluster.machines import Cluster
from tamis.pipeline.cluster.pools import Pool, pool_of
from tamis.pipeline.cluster.session import ray_session
from tamis.pipeline.emit.groups import TOKEN_BYTES, groups_of
from tamis.pipeline.emit.stage import run_emit
from tamis.pipeline.emit.token_publish import Round, publish_tokens
from tamis.pipeline.emit.tokens import TokensMade, TokenSpec
from tamis.pipeline.emit.totals import TokenTotals
from tamis.pipeline.fit.token_risks import (
    Places,
    TokenSelection,
    chosen_rows,
    digest,
    pick_samples,
    select_tokens,
    shared_rows,
)
from tamis.pipeline.fit.token_statistics import TokenStatistics, overlap, token_statistics
from tamis.pipeline.inputs.originals import changed, output_schema
from tamis.pipeline.inputs.sample_ids import sample_ids
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.planning.plan import Plan, check_columns
from tamis.pipeline.planning.reference_sets import training_role
from tamis.pipeline.references.prepare import Prepared, ReferenceModels
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run import incomplete
from tamis.pipeline.run.lease import Held
from tamis.pipeline.run.mending import check_output, until_whole
from tamis.pipeline.run.paths import ROUNDS
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase

LOSS_COLUMNS = (UTILITY, HARMFUL)


def train_references(plan: Plan, store: Store, address: str | None) -> list[Prepared]:
    """The reference models alone, for `tamis references`. Models that are already trained are not trained again."""
    with ray_session(address) as cluster:
        models = ReferenceModels(plan, store, _pool(plan, cluster))
        return [models.prepare(role) for role in LOSS_COLUMNS]


def curate_tokens(
    plan: Plan, store: Store, address: str | None, held: Held, timings: Timings, began: float
) -> dict[str, Any]:
    """Run the plan to its end and return its manifest. Raises TamisError."""
    with ray_session(address) as cluster:
        timings["ray_start"] = {"seconds": cluster.seconds_to_start}
        run, selection, emitted, statistics = until_whole(
            store,
            partial(_make, plan, store, cluster, held, timings),
            over=lambda: run_folder.finished(store, plan.fingerprint) is not None,
        )
    if (theirs := run_folder.finished(store, plan.fingerprint)) is not None:
        return theirs
    phase("publish", "gathering what the report says")
    timings["total"] = {"seconds": time.monotonic() - began}
    return publish_tokens(
        store, run.plan, list(run.prepared.values()), selection, statistics, run.rounds, run.captured, emitted, timings,
        run.notes, run.files, run.key,
    )  # fmt: skip


def _make(
    plan: Plan, store: Store, cluster: Cluster, held: Held, timings: Timings
) -> tuple[_Run, TokenSelection, TokenTotals, TokenStatistics]:
    """Models, losses, cut, output. DamagedError if a file is not as an earlier stage or command wrote it."""
    run = _Run(plan, store, cluster, held, timings)
    run.score()
    for number in range(1, _rounds(plan) + 1):
        if not run.add_round(number):
            break
    selection = run.select()
    emitted = run.emit(selection)
    return run, selection, emitted, run.statistics(selection)


def _rounds(plan: Plan) -> int:
    return plan.job.masking.repeats()


def _pool(plan: Plan, cluster: Cluster) -> Pool:
    return pool_of(cluster, plan.job)


@dataclass
class _Run:
    """The state of a run. held: its lease. prepared: the reference models by name. key: digest for the losses of the
    latest round. losses: the totals of each round. captured: the totals of the first round."""

    plan: Plan
    store: Store
    cluster: Cluster
    held: Held
    timings: Timings
    prepared: dict[str, Prepared] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    captured: CaptureTotals = field(default_factory=CaptureTotals)
    losses: list[CaptureTotals] = field(default_factory=list)
    key: str = ""
    harmful_rows: list[Tokenised] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    excluded: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.models = ReferenceModels(self.plan, self.store, _pool(self.plan, self.cluster))
        self.notes.extend(self.plan.warnings)

    @property
    def latest(self) -> int:
        """The number of the latest scoring round."""
        return len(self.rounds) - 1

    def scored(self, round: int) -> list[LossFiles]:
        """The files of every shard after that scoring round."""
        first, later = self.losses[0].captured, self.losses[round].captured if round else {}
        return [
            LossFiles(shard.name, first[shard.name].file, later[shard.name].file if round else None)
            for shard in self.plan.shards
        ]

    # --- scoring --------------------------------------------------------------------------------------------------

    def score(self) -> None:
        """Round 0: train both reference models, and compute the losses of all tokens under both."""
        began = time.monotonic()
        for role in LOSS_COLUMNS:
            self.prepared[role] = self.models.prepare(role)
        if _rounds(self.plan):
            self.harmful_rows = self.models.rows(HARMFUL)
        self.timings["references"] = {"seconds": time.monotonic() - began}
        references = {role: self.prepared[role].reference for role in LOSS_COLUMNS}
        self.captured = self._losses(references, with_tokens=True)
        # The plan checks the columns of typed files; JSON columns are known only now.
        check_columns(output_schema(self.plan.schema, self.captured.seen_schema()).names)
        self._note_shared()

    def add_round(self, number: int) -> bool:
        """TOSS-Pro: the samples with the riskiest tokens join the harmful set, and the model is trained on it again.
        False if there is no sample left to add.
        """
        began = time.monotonic()
        phase("references", f"round {number}: picking the samples with the riskiest tokens")
        job = self.plan.job
        role = training_role(job, HARMFUL)
        wanted = job.masking.added(sum(shard.rows for shard in self.plan.reference_shards if shard.role == role))
        picked = pick_samples(self.store, self.scored(self.latest), wanted, self.excluded)
        rows = chosen_rows(self.store, self.scored(0), picked)
        self.rounds[-1].added = len(rows)
        if not rows:
            self.notes.append(f"round {number} found no sample to add; the rounds ended there")
            return False
        for name, places in picked.items():
            self.excluded[name] = sorted([*self.excluded.get(name, ()), *places])
        self.harmful_rows = [*self.harmful_rows, *rows]
        self.files.append(self._write_picked(number, picked))
        name = f"{HARMFUL}-{number}"
        self.prepared[name] = self.models.train(HARMFUL, name, self.harmful_rows)
        self.timings[f"references, round {number}"] = {"seconds": time.monotonic() - began}
        self._losses({HARMFUL: self.prepared[name].reference}, with_tokens=False)
        return True

    def _write_picked(self, number: int, picked: Places) -> dict[str, Any]:
        """Write the samples that a round adds, for the artifact; the file's entry for the manifest."""
        found = [
            (shard.file.name, shard.span.start_row + place)
            for shard in self.plan.shards
            for place in picked.get(shard.name, ())
        ]
        table = pa.table(
            {
                "sample_id": pa.array([sample_ids(source, row, 1)[0] for source, row in found], pa.string()),
                "source": pa.array([source for source, _ in found], pa.string()),
                "row": pa.array([row for _, row in found], pa.int64()),
            }
        )
        return self.store.write_table(f"{ROUNDS}/round-{number}.parquet", table).to_dict()

    def _losses(self, references: Mapping[str, ReferenceModel], *, with_tokens: bool) -> CaptureTotals:
        """Score the corpus under these models, as the next round."""
        round = len(self.rounds)
        self.key = run_folder.key_of(
            {**self.plan.fingerprint, "references": {name: item.key for name, item in self.prepared.items()}}
        )

        def start(shards: Sequence[Shard], pool: Pool) -> Captures:
            plan = self.plan
            base = capture_spec(plan.job, plan.model, self.store, self.key, pool, plan.max_tokens, (), stage_of(round))
            spec = LossSpec(**vars(base), references=dict(references), with_tokens=with_tokens)
            return partial(capture, spec, plan.tokenizer, shards, pool, TokenScorer)

        totals = run_capture(
            self.plan, self.store, self.key, self.cluster, self.timings, self.plan.shards, stage_of(round), start
        )
        self.losses.append(totals)
        self._check_inputs(totals)
        self.plan = self.plan.without(totals.failed)
        if not self.plan.shards:
            incomplete.refuse(self.plan.failed)
        # The risk is a difference between the losses of two rounds, so both must have the same precision.
        totals.precisions |= self.captured.precisions
        check_precision(self.store, totals)
        self.rounds.append(Round(number=round, harmful_rows=len(self.harmful_rows) or None))
        return totals

    def _check_inputs(self, totals: CaptureTotals) -> None:
        """Every round reads the input again. InputError if it differs from that of the first round."""
        first = self.losses[0].captured
        for shard in self.plan.shards:
            found = totals.captured.get(shard.name)
            if found is not None and found.input != first[shard.name].input:
                raise changed(shard)

    def _note_shared(self) -> None:
        """Find corpus rows that are also in a reference set: the run warns of them, and they must not be added to the
        harmful set again."""
        phase("losses", "looking for rows of the corpus among the references")
        read = {shard.role for shard in self.plan.reference_shards}
        digests = {
            role: frozenset(digest(row.input_ids) for row in self.models.rows(role))
            for role in LOSS_COLUMNS
            if training_role(self.plan.job, role) in read
        }
        for role, shared in shared_rows(self.store, self.scored(0), digests).items():
            count = sum(len(places) for places in shared.values())
            if count:
                self.notes.append(
                    f"{count:,} rows of the corpus are in the {role} references, too; the model has seen their answers"
                )
            if role == HARMFUL:
                self.excluded = shared

    # --- cut and output -------------------------------------------------------------------------------------------

    def select(self) -> TokenSelection:
        """The exact cut of the last round; the cuts of earlier rounds are kept for the report."""
        began = time.monotonic()
        toss = self.plan.job.masking
        selection: TokenSelection | None = None
        for round in reversed(self.rounds):
            phase("fit", f"finding the exact cut of round {round.number}, in {len(self.plan.shards):,} shards")
            scored = self.scored(round.number)
            found = select_tokens(self.store, scored, toss.discard, toss.scope)
            round.mean_risk = found.sums.total / found.sums.count
            round.cut = found.cut.shown
            if selection is None:
                selection = found
            else:
                round.overlap = overlap(self.store, scored, found, self.scored(self.latest), selection)
        assert selection is not None
        self.timings["fit"] = {"seconds": time.monotonic() - began}
        self.notes.extend(sorted(self.captured.fallbacks)[:1])
        return selection

    def emit(self, selection: TokenSelection) -> TokenTotals:
        plan = self.plan
        phase("emit", "making room for the output")
        scored = self.scored(self.latest)
        key = incomplete.key_without(self.key, plan.failed)
        # The key covers which tokens are discarded, not only the settings of the losses: if some losses were computed
        # again on another machine, the whole output is made again.
        key = run_folder.key_of({"captured": key, "decided": selection.digest(scored)})
        incomplete.make_room(self.store, key, plan.failed, fingerprint=plan.fingerprint, contested=self.held.contested)
        made = {item.name: TokensMade(item, self.captured.captured[item.name].input) for item in scored}
        spec = TokenSpec(
            store=self.store,
            options=plan.job.storage_options,
            key=key,
            schema=output_schema(plan.schema, self.captured.seen_schema()).serialize().to_pybytes(),
            method=plan.job.method[0],
            cut=selection.cut,
            control_ids=self.plan.tokenizer.control_ids,
            with_ids=plan.job.sample_id,
        )
        totals, cpus, timeout = TokenTotals(), self.cluster.cpus, plan.job.worker_timeout
        groups = groups_of(plan.shards, plan.job.file_size, swell=TOKEN_BYTES)
        quotas = {shard.name: quota for shard, quota in zip(plan.shards, selection.quotas, strict=True)}
        run_emit(spec, groups, quotas, made, totals, self.timings, cpus=cpus, timeout=timeout)
        written = [file for item in self.prepared.values() for file in item.files]
        phase("publish", "comparing every written file with its receipt")
        check_output(self.store, [*totals.files, *written, *self.files], [shard.name for shard in plan.shards])
        self.key = key
        return totals

    def statistics(self, selection: TokenSelection) -> TokenStatistics:
        phase("publish", f"counting the tokens of {len(self.plan.shards):,} shards for the report")
        return token_statistics(self.store, self.scored(self.latest), selection, self.plan.model_info.vocabulary)
