"""Capture: shards -> one Parquet of vectors and one receipt each. The only stage that runs the model.

The graph is read + tokenise (CPU tasks) -> forward + write (actor pool, one model each). One block is one shard from
end to end; batches never cross a shard, so a shard's numbers do not depend on what else ran. The actors write: a
third operator, for a few milliseconds of writing, took the tokenising every other slot of a two-core machine.
"""

from __future__ import annotations

import json
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tamis.operators.conversation import Dialect, normalise
from tamis.operators.forward import Representer
from tamis.operators.problems import RowProblem
from tamis.operators.requests import Request
from tamis.operators.schema import infer_rows
from tamis.operators.tokens import ChatTokenizer, Tokenised
from tamis.pipeline import receipts
from tamis.pipeline.engine import Pool, own_error
from tamis.pipeline.errors import ClusterError, TamisError
from tamis.pipeline.files import TEXT_FORMATS, encode_schema
from tamis.pipeline.job import LayersJob
from tamis.pipeline.models import ModelSource, chat_template, fetch
from tamis.pipeline.receipts import WORK, Receipt
from tamis.pipeline.sources import CORPUS, Row, Shard, read
from tamis.pipeline.store import Store

STAGE = "capture"
CAPTURES = f"{WORK}/{STAGE}"
ACTOR_RESTARTS = 3
SHOWN_EXAMPLES = 3


@dataclass(frozen=True)
class CaptureSpec:
    """All that a worker needs; plain values, so that a restarted actor can be built from it again.

    columns: names of the requests. stage: the folder of the vectors and of the receipts.
    """

    store: Store
    options: Mapping[str, Any]
    key: str
    model: str
    revision: str | None
    trust_remote_code: bool
    allow_pickle_weights: bool
    template: str | None
    dtype: str
    device: str
    threads: int | None
    token_budget: int | str
    attention: str
    compile: bool
    exact: bool
    max_tokens: int
    overlong: str
    columns: tuple[str, ...]
    stage: str = STAGE

    @property
    def requests(self) -> tuple[Request, ...]:
        return tuple(Request.parse(column) for column in self.columns)


def capture_spec(
    job: LayersJob,
    model: ModelSource,
    store: Store,
    key: str,
    pool: Pool,
    max_tokens: int,
    requests: Iterable[Request],
    stage: str = STAGE,
) -> CaptureSpec:
    """What the job says of it. key: digest of the settings on which the vectors depend."""
    spec = job.model
    return CaptureSpec(
        store=store,
        options=job.storage_options,
        key=key,
        model=model.path if model.revision == "local" else spec.name,
        # The commit that the plan saw, so that every worker reads the same files.
        revision=None if model.revision == "local" else model.revision,
        trust_remote_code=spec.trust_remote_code,
        allow_pickle_weights=spec.allow_pickle_weights,
        template=chat_template(spec.template),
        dtype=spec.dtype,
        device=spec.device,
        threads=pool.threads,
        token_budget=spec.token_budget,
        attention=spec.attention,
        compile=spec.compile,
        exact=spec.exact,
        max_tokens=max_tokens,
        overlong=job.overlong,
        columns=tuple(request.column for request in requests),
        stage=stage,
    )


def capture(spec: CaptureSpec, shards: Sequence[Shard], pool: Pool) -> Iterator[Receipt]:
    """Capture every shard, and yield its receipt when it is written, in any order.

    Raises TamisError as the workers raised it, ClusterError when Ray gave up.
    """
    import ray
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    if not shards:
        return
    tasks = {"batch_size": None, "batch_format": "pyarrow", "num_cpus": pool.task_cpus, "compute": TaskPoolStrategy()}
    items = [{"shard": shard.to_json()} for shard in shards]
    with warnings.catch_warnings():
        # Ray 2.60 takes finite restarts only by a way that 2.64 will take away; its default is to restart for ever.
        warnings.simplefilter("ignore", ray.util.annotations.RayDeprecationWarning)
        dataset = (
            ray.data.from_items(items, override_num_blocks=len(items))
            .map_batches(tokenise_shard, fn_kwargs={"spec": spec}, **tasks)
            .map_batches(
                Forward,
                fn_constructor_kwargs={"spec": spec},
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=pool.cpus_per_worker,
                num_gpus=pool.gpus_per_worker or None,
                compute=ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=2),
                max_restarts=ACTOR_RESTARTS,
                max_task_retries=ACTOR_RESTARTS,
                # Without it several models may land on one node while others idle.
                scheduling_strategy="SPREAD",
            )
        )
    try:
        for row in dataset.iter_rows():
            yield json.loads(row["receipt"])
    except TamisError:
        raise
    except Exception as error:
        found = own_error(error)
        if isinstance(found, TamisError):
            raise found from None
        raise ClusterError(
            f"the capture stopped: {type(found).__name__}: {' '.join(str(found).split())[:300]}. What is captured "
            "stays; run the same command again to go on"
        ) from error


# --- read and tokenise --------------------------------------------------------------------------------------------


def tokenise_shard(batch: pa.Table, spec: CaptureSpec) -> pa.Table:
    """One shard: a row per input row with its tokens, or with the code and message of its problem."""
    [text] = batch.column("shard").to_pylist()
    shard = Shard.from_json(text)
    began = time.perf_counter()
    dialect = Dialect.from_dict(dict(shard.dialect))
    columns = None if shard.file.format in TEXT_FORMATS else [column for _, column in dialect.columns]
    rows = read(shard, spec.options, columns)
    outcomes: list[Any] = [None] * len(rows)
    conversations, places = [], []
    for place, row in enumerate(rows):
        try:
            if isinstance(row.value, RowProblem):
                raise row.value
            conversations.append(normalise(row.value, dialect))
            places.append(place)
        except RowProblem as problem:
            outcomes[place] = problem
    tokenizer = _tokenizer(spec.model, spec.revision, spec.trust_remote_code, spec.template)
    encoded = tokenizer.encode(
        conversations,
        max_tokens=spec.max_tokens,
        overlong=spec.overlong,  # type: ignore[arg-type]
    )
    needs_prompt = any(request.position == "last_prompt_token" for request in spec.requests)
    for place, outcome in zip(places, encoded, strict=True):
        if needs_prompt and isinstance(outcome, Tokenised) and outcome.prompt_cut:
            outcome = RowProblem(
                "prompt_cut", "the cut to max_tokens left no token of the prompt, which the method reads"
            )
        outcomes[place] = outcome
    notes = {"shard": text, "schema": _schema_of(shard, rows, outcomes), "read_seconds": time.perf_counter() - began}
    return _tokens_table(outcomes, json.dumps(notes))


@lru_cache(maxsize=2)
def _tokenizer(model: str, revision: str | None, remote_code: bool, template: str | None) -> ChatTokenizer:
    """Kept for the life of the worker process: opening a tokenizer takes longer than a shard."""
    path = fetch(model, revision, weights=False, remote_code=remote_code).path
    return ChatTokenizer.load(path, trust_remote_code=remote_code, template=template)


def _schema_of(shard: Shard, rows: Sequence[Row], outcomes: Sequence[Any]) -> str | None:
    """JSON has no schema before its rows are read; each shard says what its usable rows held, unsettled. A row on its
    way to quarantine has no say: one string where all others have a list would turn the column into text."""
    if shard.role != CORPUS or shard.file.format not in {"json", "jsonl"}:
        return None
    usable = [
        row.value
        for row, outcome in zip(rows, outcomes, strict=True)
        if not isinstance(outcome, RowProblem) and not isinstance(row.value, RowProblem)
    ]
    return encode_schema(infer_rows(usable))


def _tokens_table(outcomes: Sequence[Any], notes: str) -> pa.Table:
    good = [None if isinstance(outcome, RowProblem) else outcome for outcome in outcomes]
    bad = [outcome if isinstance(outcome, RowProblem) else None for outcome in outcomes]
    lengths = np.array([0 if row is None else len(row.input_ids) for row in good], dtype=np.int64)
    flat = [row.input_ids for row in good if row is not None]
    finals = np.array([(0, 0) if row is None else row.final for row in good], dtype=np.int32).reshape(-1, 2)
    return pa.table(
        {
            "notes": pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(good), np.int32)), pa.array([notes])),
            "code": pa.array([None if p is None else p.code for p in bad], pa.string()),
            "message": pa.array([None if p is None else p.message for p in bad], pa.string()),
            "input_ids": pa.LargeListArray.from_arrays(
                pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64()),
                pa.array(np.concatenate(flat) if flat else np.empty(0), pa.int32()),
            ),
            "final_start": pa.array(finals[:, 0]),
            "final_stop": pa.array(finals[:, 1]),
            "n_response_tokens": pa.array(
                [0 if row is None else sum(stop - start for start, stop in row.responses) for row in good],
                pa.int32(),
            ),
            "truncated": pa.array([row is not None and row.truncated for row in good], pa.bool_()),
        }
    )


# --- forward ------------------------------------------------------------------------------------------------------


class Forward:
    """One model in one actor: takes tokenised shards, writes captured ones, gives back their receipts.

    Loading and every forward pass run in one thread. Ray makes the actor in one thread and calls it from another, and
    each of them would keep a team of OpenMP threads, which then share the worker's cores.
    """

    def __init__(self, spec: CaptureSpec) -> None:
        self.spec = spec
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="forward")
        self.thread.submit(self._load).result()

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self.thread.submit(self._capture, batch).result()

    def _load(self) -> None:
        import torch

        spec = self.spec

        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        began = time.perf_counter()
        source = fetch(
            spec.model,
            spec.revision,
            weights=True,
            pickles=spec.allow_pickle_weights,
            remote_code=spec.trust_remote_code,
        )
        self.representer = Representer.load(
            source.path,
            spec.requests,
            dtype=spec.dtype,
            device=spec.device,
            trust_remote_code=spec.trust_remote_code,
            allow_pickle_weights=spec.allow_pickle_weights,
            attention=spec.attention,
            compile=spec.compile,
        )
        self.token_budget = None if spec.token_budget == "auto" else int(spec.token_budget)
        self.load_seconds = time.perf_counter() - began

    def _capture(self, batch: pa.Table) -> pa.Table:
        started = time.time()
        began = time.perf_counter()
        batch = batch.combine_chunks()
        codes, messages = batch.column("code").to_pylist(), batch.column("message").to_pylist()
        places = np.flatnonzero([code is None for code in codes])
        tokens = batch.column("input_ids").chunk(0) if batch.num_rows else pa.array([], pa.large_list(pa.int32()))
        offsets, values = tokens.offsets.to_numpy(), tokens.values.to_numpy()
        lengths = np.diff(offsets)
        finals = np.stack([batch.column(name).to_numpy() for name in ("final_start", "final_stop")], axis=1)
        ids = [values[offsets[place] : offsets[place + 1]] for place in places]
        vectors, problems = self.representer.represent(
            ids, finals[places], token_budget=self.token_budget, exact=self.spec.exact
        )
        for number, problem in problems.items():
            codes[places[number]], messages[places[number]] = problem.code, problem.message
        valid = np.array([code is None for code in codes], dtype=bool)
        seconds = time.perf_counter() - began
        precision = f"{str(self.representer.dtype).removeprefix('torch.')} on {self.representer.device.type}"
        timing = {
            "precision": precision,
            "load_seconds": self.load_seconds,
            "started": started,
            "forward_seconds": seconds,
        }
        notes = json.loads(batch.column("notes")[0].as_py()) | timing
        columns: dict[str, Any] = {
            "notes": pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(len(codes), np.int32)), pa.array([json.dumps(notes)])
            ),
            "code": pa.array(codes, pa.string()),
            "message": pa.array(messages, pa.string()),
            "n_tokens": pa.array(np.where(valid, lengths, 0), pa.int32()),
            "n_response_tokens": pa.array(np.where(valid, batch.column("n_response_tokens").to_numpy(), 0), pa.int32()),
            "truncated": pc.and_(batch.column("truncated"), pa.array(valid)),
        }
        for request in self.spec.requests:
            columns[request.column] = _vector_column(vectors[request], places, valid)
        return write_shard(pa.table(columns), self.spec)


def _vector_column(
    vectors: np.ndarray[Any, Any], places: np.ndarray[Any, Any], valid: np.ndarray[Any, Any]
) -> pa.Array:
    """float32 lists of one length, null where the row is quarantined."""
    width = vectors.shape[1]
    full = np.zeros((len(valid), width), dtype=np.float32)
    full[places] = vectors
    full[~valid] = 0
    return pa.FixedSizeListArray.from_arrays(pa.array(full.reshape(-1)), width, mask=pa.array(~valid))


# --- write --------------------------------------------------------------------------------------------------------


def write_shard(batch: pa.Table, spec: CaptureSpec) -> pa.Table:
    """Write one captured shard, then its receipt."""
    noted = set(batch.column("notes").combine_chunks().to_pylist())
    if len(noted) != 1:
        raise AssertionError(f"a block holds {len(noted)} shards; each must travel as one block")
    notes = json.loads(noted.pop())
    shard = Shard.from_json(notes["shard"])
    if batch.num_rows != shard.rows:
        raise AssertionError(f"shard {shard.name}: {batch.num_rows} rows arrived of {shard.rows}")
    written = spec.store.write_table(f"{WORK}/{spec.stage}/{shard.name}.parquet", batch.drop_columns(["notes"]))
    codes = Counter(code for code in batch.column("code").to_pylist() if code is not None)
    firsts = dict(zip(batch.column("code").to_pylist(), batch.column("message").to_pylist(), strict=True))
    examples: dict[str, list[str]] = {}
    for place, code in enumerate(batch.column("code").to_pylist()):
        if code is not None and len(examples.setdefault(code, [])) < SHOWN_EXAMPLES:
            examples[code].append(f"{shard.file.name} row {shard.span.start_row + place}")
    facts = {
        "role": shard.role,
        "quarantined": dict(codes),
        "messages": {code: firsts[code] for code in codes},
        "tokens": pc.sum(batch.column("n_tokens")).as_py() or 0,
        "truncated": pc.sum(batch.column("truncated")).as_py() or 0,
        "examples": examples,
        "precision": notes["precision"],
        "schema": notes["schema"],
        "file": asdict(written),
        "seconds": {name: notes[name] for name in ("read_seconds", "forward_seconds", "load_seconds")},
        "started": notes["started"],
        "finished": notes["started"] + notes["forward_seconds"],
    }
    receipt = receipts.write(spec.store, spec.stage, shard, spec.key, facts)
    return pa.table({"receipt": [json.dumps(receipt)]})
