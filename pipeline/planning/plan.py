"""The plan: inputs -> shards, and every failure that can be known before anything expensive starts."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from typing import Any

import pyarrow as pa
from fsspec.utils import glob_translate

from tamis.operators.conversation.dialects import Dialect, listed
from tamis.operators.conversation.schema import digit_notes, infer_rows, json_places, unify_schemas
from tamis.operators.methods import Larf, Method
from tamis.operators.methods.request_side import read_of
from tamis.operators.model.info import ModelInfo
from tamis.operators.requests import Request
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.cluster.pools import Placement
from tamis.pipeline.errors import ConfigError, InputError
from tamis.pipeline.inputs.added_columns import renamed_note
from tamis.pipeline.inputs.arrow_types import one_schema
from tamis.pipeline.inputs.files import NOTHING_UNREAD, TEXT_FORMATS, Inputs, SourceFile, Unread, Wanted, find
from tamis.pipeline.inputs.hub import DatasetPart
from tamis.pipeline.inputs.originals import conform, output_schema
from tamis.pipeline.inputs.shards import CORPUS, Scanned, Shard, make_shards, role_of
from tamis.pipeline.job.job_file import Job
from tamis.pipeline.job.methods import known, settings_of
from tamis.pipeline.models.checks import OpenedModel, check_files, open_model, vocabulary_note
from tamis.pipeline.models.fetch import ModelSource
from tamis.pipeline.planning import plan_cache
from tamis.pipeline.planning.corpus_sample import DrawnRows, draw, sample_keys, sizes
from tamis.pipeline.planning.fingerprint import captured_keys_of, fingerprint_of, given_keys_of
from tamis.pipeline.planning.frozen_job import FrozenJob, check_model, with_artifact
from tamis.pipeline.planning.further_models import MODELS, FurtherPlan, further_keys, further_notes, plan_further
from tamis.pipeline.planning.layer_plan import NO_TEMPLATE, LayerPlan, layer_plan, longest_of
from tamis.pipeline.planning.reference_sets import plan_references
from tamis.pipeline.planning.sampling import SAMPLED_FILES, Estimate, Sample, remarks_of, sampled
from tamis.pipeline.planning.scanning import dialect_of, scan_files
from tamis.pipeline.run.paths import ARTIFACT_FACTS, MANIFEST, PARTS, RECEIPTS, table_of
from tamis.pipeline.run.set_aside import SetAside
from tamis.pipeline.storage.addresses import is_local_url, refuse_credentials, refuse_unshared
from tamis.pipeline.storage.retrying import PATIENCE_SECONDS
from tamis.pipeline.storage.store import Store
from tamis.pipeline.terminal.progress import phase, waiting

_WRITES = (
    *(table_of(folder, "000000-0123456789abcdef") for folder in PARTS),
    *(MANIFEST, ARTIFACT_FACTS, f"{RECEIPTS}/emit/compact-0123456789abcdef.jsonl"),
)
"""Examples of every kind of file that a run writes into its output folder."""

BYTES_OF_A_NUMBER = 4
"""In a captured vector, and of a score."""

TRAINING_COLUMNS = ("input_ids", "attention_mask", "labels", "token_risk")
"""The columns that a method that masks tokens adds to kept/."""


@dataclass(frozen=True)
class PlannedFile:
    file: SourceFile
    dialect: Dialect
    rows: int


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs to know. schema: None when it is known only after the rows were read (JSON).
    layers: how LARF's block is found where the job names none; requests lack LARF's until that is settled.
    failed: planned shards that have failed since; they are not in `shards`. placement: where the workers will run, once
    that is known. parameters: of the model that a worker loads, where its files are at hand. unread: what lies in the
    input's folders and is not read. notes: how the columns are read. samples: rows as they are rendered, if asked
    for. artifact: what is applied instead of a fit, if the job names one; `job` has its settings then. night: of a
    schedule, see `Inputs`. forecast: label -> what is said of a run that is only planned; figures: its numbers.
    corpus_samples: method -> the rows of the corpus that it is fitted to; one that is not named reads the whole corpus,
    or none of it. further: models that are captured besides, for CSA. is_further: whether this is the plan of one of
    these."""

    job: Job
    files: tuple[PlannedFile, ...]
    shards: tuple[Shard, ...]
    reference_shards: tuple[Shard, ...]
    schema: pa.Schema | None
    methods: Mapping[str, Method]
    requests: tuple[Request, ...]
    layers: LayerPlan | None
    opened: OpenedModel
    max_tokens: int
    estimate: Estimate
    fingerprint: Mapping[str, Any]
    warnings: tuple[str, ...]
    will_fail: bool
    failed: tuple[SetAside, ...] = ()
    placement: Placement | None = None
    parameters: int | None = None
    unread: Unread = NOTHING_UNREAD
    notes: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    artifact: FrozenJob | None = None
    night: Mapping[str, Any] | None = None
    forecast: Mapping[str, str] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    corpus_samples: Mapping[str, DrawnRows] = field(default_factory=dict)
    further: tuple[FurtherPlan, ...] = ()
    is_further: bool = False

    @property
    def one_of_several(self) -> str | None:
        """The name of the model that is captured, for messages, where the job has further ones for CSA."""
        return self.job.model.name if self.further or self.is_further else None

    @property
    def fit_shards(self) -> tuple[Shard, ...]:
        """What is captured for the fit besides the corpus: the references, and the rows that are drawn from it."""
        return (*self.reference_shards, *(shard for drawn in self.corpus_samples.values() for shard in drawn.shards))

    @property
    def requests_read(self) -> tuple[str, Request] | None:
        """Whose references tell which requests look harmful, and what is read of a row for that; None where no method
        has such references, or none are captured."""
        return None if self.artifact is not None else read_of(self.methods, self.model_info.blocks)

    @property
    def model(self) -> ModelSource:
        return self.opened.source

    @property
    def model_info(self) -> ModelInfo:
        return self.opened.info

    @property
    def tokenizer(self) -> ChatTokenizer:
        """The model's tokenizer, with the job's chat template."""
        return self.opened.tokenizer

    @cached_property
    def rows(self) -> int:
        """Asked for at every receipt: counted once, or a run would take time by the square of its shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def rows_in(self) -> int:
        """Rows of the whole input; `rows` counts only the remaining shards."""
        return self.rows + sum(item.rows for item in self.failed)

    @property
    def bytes(self) -> int:
        return sum(planned.file.bytes for planned in self.files)

    @property
    def changed(self) -> str:
        """Digest of the modification times of the input files."""
        times = [planned.file.changed for planned in self.files]
        return hashlib.sha256(json.dumps(times).encode()).hexdigest()

    @property
    def larf(self) -> Larf | None:
        """LARF with its settings, if it is among the methods."""
        larf = self.methods.get("larf")
        return larf if isinstance(larf, Larf) else None

    @property
    def unsettled(self) -> bool:
        """Whether LARF's block must still be found."""
        return self.larf is not None and isinstance(self.larf.layer, str)

    def without(self, failed: Iterable[SetAside]) -> Plan:
        """The same plan without these shards of the corpus."""
        gone = {item.shard: item for item in failed}
        left = tuple(shard for shard in self.shards if shard.name not in gone)
        return replace(self, shards=left, failed=(*self.failed, *gone.values()))

    def under(self, further: FurtherPlan) -> Plan:
        """The same plan with a further model in place of the job's, and with CSA alone."""
        roles = {role_of(further.method.name, source) for source in further.method.sources()}
        return replace(
            self,
            job=further.job,
            methods={further.method.name: further.method},
            reference_shards=tuple(shard for shard in self.reference_shards if shard.role in roles),
            requests=further.requests,
            layers=None,
            opened=further.opened,
            max_tokens=further.max_tokens,
            estimate=further.estimate,
            parameters=further.parameters,
            corpus_samples={},
            further=(),
            is_further=True,
        )

    def with_layer(self, block: int, chosen: str) -> Plan:
        """The same plan with this block for LARF. chosen: how the block was found, for the manifest."""
        assert self.larf is not None
        methods = {**self.methods, "larf": replace(self.larf, layer=block, layer_chosen=chosen)}
        return replace(self, methods=methods, requests=requests_of(methods, self.model_info))


def find_inputs(job: Job) -> list[Scanned]:
    """The input files, and where their rows lie. Raises ConfigError or InputError. Imports nothing large."""
    return scan_files(list_inputs(job).files, job, plan_cache.load(job))


def list_inputs(job: Job) -> Inputs:
    """The input files, not scanned yet. Raises ConfigError or InputError."""
    keep_apart(job)
    part = DatasetPart(job.input.config, job.input.split, job.input.revision)
    quoting = "" if job.input.quoting == "auto" else job.input.quoting
    wanted = Wanted(job.input.delimiter or "", quoting, job.input.field or "", job.input.encoding or "")
    found = find(job.input.path, job.input.format, job.storage_options, part, wanted)
    _refuse_unused(job, {file.format for file in found.files})
    output = place_of(job.output)
    own = [file.name for file in found.files if place_of(file.url).startswith(output)]
    if own:
        raise ConfigError(f"output: {job.output} holds {own[0]}, which input names; choose another output folder")
    return found


def _refuse_unused(job: Job, formats: set[str]) -> None:
    """ConfigError for a setting of a format that no file has."""
    text = bool(formats & TEXT_FORMATS)
    tables, objects = bool(formats & {"csv", "tsv"}), bool(formats & {"json", "jsonl"})
    for name, is_set, is_used, what in (
        ("delimiter", job.input.delimiter is not None, tables, "CSV or TSV"),
        ("quoting", job.input.quoting != "auto", tables, "CSV or TSV"),
        ("field", job.input.field is not None, objects, "JSON"),
        ("encoding", job.input.encoding is not None, text, "text"),
    ):
        if is_set and not is_used:
            raise ConfigError(f"input.{name}: no input file is {what}; leave it out")


def make_plan(
    job: Job,
    inputs: Sequence[Scanned] | None = None,
    show: int = 0,
    *,
    found: Inputs | None = None,
    with_texts: bool = False,
    artifact: FrozenJob | None = None,
) -> Plan:
    """Make the plan. Raises ConfigError or InputError with everything that is wrong, not only the first thing.

    inputs, found: the results of `find_inputs` and `list_inputs` for this job, if they were called before. show: how
    many rows the plan shows as they are rendered. with_texts: whether it shows the text of rows that cannot be used.
    artifact: the result of `with_artifact`, if it was called before; then `job` is its job.
    """
    artifact = artifact or with_artifact(job)
    job = job if artifact is None else artifact.job
    found = list_inputs(job) if found is None else found
    phase("plan", f"looking for the rows of {len(found.files):,} files")
    everything = scan_files(found.files, job, plan_cache.load(job)) if inputs is None else inputs
    files = [scanned for scanned in everything if scanned.rows]
    methods = methods_of(job)
    with waiting("plan", "opening the model"):
        model = open_model(job.model, job.storage_options, Store(job.output, job.storage_options))
    phase("plan", "looking at the model's files and the columns of the input")
    if artifact is not None:
        check_model(job, artifact.frozen, model)
    searches = {name: wanted for name, each in methods.items() if (wanted := each.block_search()) and wanted.open}
    undecided = bool(searches)
    requests = requests_of({name: methods[name] for name in methods if name not in searches}, model.info)
    whole = undecided or job.masks_tokens
    blocks = model.info.blocks if whole else max(request.block for request in requests) + 1
    parameters = None
    if not model.known:
        answers = job.masks_tokens or any(wanted.by_refusals for wanted in searches.values())
        parameters = check_files(model, blocks, head=answers, vectors=not job.masks_tokens)
    notes: list[str] = [*found.notes, *reading_notes(everything)]
    max_tokens = longest_of(job, model)
    if max_tokens < job.max_tokens and "max_tokens" in job.model_fields_set:
        notes.append(f"the model takes at most {max_tokens:,} tokens; max_tokens is lowered to that")

    planned: list[PlannedFile] = []
    shards: list[Shard] = []
    read: list[tuple[Scanned, Dialect]] = []
    problems: list[str] = []
    for scanned in files:
        try:
            dialect = dialect_of(scanned, job.input.dialect, job.input.columns, job.join)
        except ValueError as error:
            problems.append(f"{scanned.file.name}: {error}")
            continue
        planned.append(PlannedFile(scanned.file, dialect, scanned.rows))
        shards.extend(make_shards(scanned, CORPUS, dialect.to_dict(), len(shards)))
        read.append((scanned, dialect))
    if problems:
        raise InputError(f"the conversations of {len(problems)} file(s) are not understood:", problems)
    schema, differing = _typed_schema(files)
    notes.extend(differing)
    as_text = json_note(files, schema)
    untyped = [scanned for scanned in files if scanned.schema is None]
    phase("plan", f"reading the first rows of {len(read):,} files as the model will")
    estimate, samples = sampled(
        read,
        model.tokenizer,
        max_tokens,
        overlong_is_bad=job.overlong == "quarantine",
        every_answer=job.masks_tokens,
        show=show,
        with_texts=with_texts,
    )
    columns = {key for scanned in files for row in scanned.head for key in row}.union(schema.names if schema else ())
    if job.masks_tokens:
        check_columns(columns)
    renamed = renamed_note(columns, job.sample_id, with_quantile=not job.masks_tokens)
    references: tuple[Shard, ...] = ()
    if artifact is None:
        phase("plan", "reading the references")
        references = plan_references(job, methods, model.tokenizer, max_tokens, len(shards), notes)
        _check_amounts(job, sum(shard.rows for shard in shards), model.info)
    layers = None
    for wanted in searches.values():  # at most one: no other method than LARF has its block found
        layers = layer_plan(job, wanted, model, max_tokens, references, search=wanted.by_refusals)
    if not model.tokenizer.has_template:
        notes.append(NO_TEMPLATE)
    if (beyond := vocabulary_note(model.tokenizer, model.info)) is not None:
        notes.append(beyond)
    notes.extend(short_timeout(job))
    notes.extend(digit_notes(infer_rows(row for scanned in untyped[:SAMPLED_FILES] for row in scanned.head)))
    further: tuple[FurtherPlan, ...] = ()
    if artifact is None:
        further = plan_further(job, methods, model, references, read)
    notes.extend(further_notes(further))
    corpus_rows = sum(shard.rows for shard in shards)
    fatal = _foresee_failure(job, estimate, corpus_rows)
    for each in further:
        fatal += [f"{MODELS}: {each.name}: {said}" for said in _foresee_failure(job, each.estimate, corpus_rows)]
    notes.extend(fatal)
    if estimate.bad and not fatal:
        notes.append(f"{round(estimate.bad * estimate.sampled)} of {estimate.sampled} sampled rows cannot be used")
    said = remarks_of(read)
    notes.extend(said.warnings)
    if len({item.dialect.name for item in planned}) > 1:
        notes.append("the files hold conversations in more than one dialect")
    if not job.masks_tokens and _largest_set(references) > sum(shard.rows for shard in shards):
        notes.append("there are fewer rows than references; a share of so few says little")
    drawn: dict[str, DrawnRows] = {}
    if artifact is None and methods:
        rows = sum(shard.rows for shard in shards)
        vectors = rows * (len(requests) + undecided) * model.info.width * BYTES_OF_A_NUMBER
        counts = sizes(methods, rows, vectors, job.keep_captures)
        if counts:
            phase("plan", "drawing the rows that stand for the corpus")
        if counts and job.schedule is not None and job.schedule.refit_every is not None:
            name = next(iter(counts))
            raise ConfigError(f"{name}.sample: refit_every fits from all rows of the nights; set {name}.sample: all")
        drawn = draw(counts, shards, len(shards) + len(references), job.seed)
    elif artifact is not None and job.schedule is not None and job.schedule.refit_every is not None:
        sampled_ones = [name for name, made in artifact.frozen.artifacts.items() if "corpus_sample" in made.facts]
        if sampled_ones:
            name = sampled_ones[0]
            raise ConfigError(
                f"schedule.refit_every: {name} was fitted to rows drawn from its corpus, and a refit reads all rows; "
                f"begin another schedule.root with {name}.sample: all"
            )
    phase("plan", "comparing the settings")
    return Plan(
        job=job,
        files=tuple(planned),
        shards=tuple(shards),
        reference_shards=references,
        schema=schema,
        methods=methods,
        requests=requests,
        layers=layers,
        opened=model,
        max_tokens=max_tokens,
        estimate=estimate,
        fingerprint=fingerprint_of(
            job,
            shards,
            model.keys,
            {**captured_keys_of(job, references, max_tokens), **given_keys_of(job)},
            {
                **(layers.keys if layers else {}),
                **({"artifact": artifact.frozen.digest} if artifact else {}),
                **sample_keys(drawn, job.seed),
                **further_keys(methods, further),
            },
        ),
        warnings=tuple(notes),
        will_fail=bool(fatal),
        parameters=parameters,
        unread=found.unread,
        notes=(*said.notes, *as_text, *renamed),
        samples=samples,
        artifact=artifact,
        night=_with_empty(found.night, everything),
        corpus_samples=drawn,
        further=further,
    )


def _with_empty(night: Mapping[str, Any] | None, everything: Sequence[Scanned]) -> Mapping[str, Any] | None:
    """A night's facts with the files that hold no rows: they are looked at once, too."""
    empty = [scanned.file for scanned in everything if not scanned.rows]
    names = ("url", "bytes", "identity", "sha256")
    return None if night is None else {**night, "empty": [{name: getattr(f, name) for name in names} for f in empty]}


def reading_notes(files: Sequence[Scanned]) -> list[str]:
    """What the plan says of files that are passed over because they hold no rows, and of those that are not read as
    their names tell; files of which the same is to be said share a line."""
    said: dict[str, list[str]] = {}
    for scanned in files:
        for note in scanned.notes if scanned.rows else ["holds no rows, and is passed over"]:
            said.setdefault(note, []).append(scanned.file.name)
    return [f"{names[0]}{f' and {len(names) - 1:,} more' * (len(names) > 1)}: {note}" for note, names in said.items()]


def _largest_set(references: Iterable[Shard]) -> int:
    """Rows of the largest reference set."""
    rows: Counter[str] = Counter()
    for shard in references:
        rows[shard.role] += shard.rows
    return max(rows.values(), default=0)


def methods_of(job: Job) -> dict[str, Method]:
    """The job's methods that score samples, in the order of the job. LARF's block is open if the job does not name
    it."""
    made: dict[str, Method] = {}
    for name in job.method:
        kind = known()[name].kind
        if not issubclass(kind, Method):
            continue
        try:
            made[name] = kind(**settings_of(kind, job.of(name)))
        except ValueError as error:
            raise ConfigError(_named(name, error)) from None
    return made


def requests_of(methods: Mapping[str, Method], info: ModelInfo) -> tuple[Request, ...]:
    """The requests of all methods together. ConfigError if the model does not have a layer."""
    wanted: set[Request] = set()
    for name, method in methods.items():
        try:
            wanted.update(method.requests(info.blocks))
            method.check(info.width)
        except ValueError as error:
            raise ConfigError(_named(name, error)) from None
    return tuple(sorted(wanted))


def _named(method: str, error: ValueError) -> str:
    """A method's message about its settings, with the method's name in front."""
    said = str(error)
    return said if said.startswith(method) else f"{method}: {said}"


def check_columns(names: Iterable[str]) -> None:
    """ConfigError if a column of the corpus has the name of a column that tamis adds."""
    found = set(names)
    taken = [name for name in TRAINING_COLUMNS if name in found]
    if taken:
        raise ConfigError(f"the corpus has a column {taken[0]}, which the method writes; rename it first")


def keep_apart(job: Job) -> None:
    """Refuse an output inside an input folder: the next run would read it as input."""
    for address in (*job.input.path, job.output):
        refuse_credentials(address)
        refuse_unshared(address)
    for path in job.input.path:
        if place_of(job.output).startswith(place_of(path)):
            raise ConfigError(f"output: {job.output} lies inside the input folder {path}; choose a folder beside it")
        if _finds(path, job.output):
            raise ConfigError(f"output: {job.output} lies where {path} finds input; choose another folder")


def _finds(pattern: str, output: str) -> bool:
    """Whether a glob matches files that a run writes into its output folder. An invalid glob matches nothing."""
    mark = re.search(r"[*?\[]", pattern)
    if mark is None:
        return False
    fixed, slash, _ = pattern[: mark.start()].rpartition("/")
    try:
        found = re.compile(glob_translate(place_of(fixed + slash) + pattern[len(fixed + slash) :]))
    except (ValueError, re.error):
        return False
    return any(found.match(place_of(output) + name) for name in _WRITES)


def place_of(url: str) -> str:
    """The address, ending in a slash, in a form in which a folder lies in another one if it starts with its address."""
    path = os.path.realpath(os.path.expanduser(url.removeprefix("file://"))) if is_local_url(url) else url
    return path.rstrip("/") + "/"


def _typed_schema(files: Sequence[Scanned]) -> tuple[pa.Schema | None, tuple[str, ...]]:
    """One schema for all typed files, and what differs between them. None if all are JSON."""
    typed = {scanned.file.name: scanned.schema for scanned in files if scanned.schema is not None}
    if not typed:
        return None, ()
    try:
        schema, notes = one_schema(typed)
    except ValueError as error:
        raise InputError(f"the files do not share one schema: {error}") from None
    seen = _seen(files)
    if seen is not None:
        # What emit will do, on tables without rows: it must not fail only after the capture.
        kept = output_schema(schema, seen)
        for known in typed.values():
            conform(pa.Table.from_arrays([pa.nulls(0, field.type) for field in known], schema=known), kept)
    return schema, notes


def _seen(files: Sequence[Scanned]) -> pa.Schema | None:
    """The unsettled schema of the sampled JSON rows; None if there are none."""
    untyped = [scanned for scanned in files if scanned.schema is None][:SAMPLED_FILES]
    return reduce(unify_schemas, [infer_rows(scanned.head) for scanned in untyped]) if untyped else None


def json_note(files: Sequence[Scanned], typed: pa.Schema | None) -> tuple[str, ...]:
    """What of kept/ will be JSON text that is none in a file. typed: the schema of the typed files."""
    seen = _seen(files)
    if seen is None:
        return ()
    known = () if typed is None else json_places(typed)
    found = [place for place in json_places(output_schema(typed, seen)) if place not in known]
    if not found:
        return ()
    return (f"JSON text in kept/, as their keys or types differ between the sampled rows: {listed(found)}",)


def _check_amounts(job: Job, rows: int, info: ModelInfo) -> None:
    count = job.selection.drop_count
    if count is not None and count > rows:
        raise ConfigError(f"selection.drop_count: {count:,} is more than the {rows:,} rows there are")
    if count is not None and count * 2 > rows and not job.selection.allow_majority:
        raise ConfigError(
            f"selection.drop_count: {count:,} of {rows:,} rows is more than half; set selection.allow_majority: true "
            "if that is meant"
        )


def short_timeout(job: Job) -> list[str]:
    """A warning if a worker that waits for its storage could be mistaken for a hung one."""
    everything_local = all(map(is_local_url, [job.output, job.model.name, *job.input.path]))
    if everything_local or job.worker_timeout > PATIENCE_SECONDS:
        return []
    return [
        f"worker_timeout is {job.worker_timeout:g} s, but an outage of the storage is waited out for "
        f"{PATIENCE_SECONDS:g}: a worker that waits for it may be taken for hung"
    ]


def _foresee_failure(job: Job, estimate: Estimate, rows: int) -> list[str]:
    """A warning that the run would end above max_quarantined if the other rows are like the sampled ones.

    There is no warning for a share above the limit that may be sampling error. rows: of the corpus.
    """
    reasons = []
    known = estimate.sampled >= rows and estimate.bad > job.max_quarantined
    if known or _surely_above(estimate.bad, estimate.sampled, job.max_quarantined):
        reasons.append(
            f"{estimate.bad:.0%} of {estimate.sampled} sampled rows cannot be used; above max_quarantined "
            f"({job.max_quarantined:.1%}) the run will fail"
        )
    if job.overlong == "quarantine" and _surely_above(estimate.overlong, estimate.sampled, job.max_quarantined):
        reasons.append(
            f"{estimate.overlong:.0%} of {estimate.sampled} sampled rows are longer than max_tokens; set overlong to "
            "keep_end or keep_start, or the run will fail"
        )
    return reasons


def _surely_above(share: float, sampled: int, limit: float) -> bool:
    """Whether this many of the sampled rows would have a probability below 1 % if `limit` were the true share."""
    found = round(share * sampled)
    fewer = sum(math.comb(sampled, k) * limit**k * (1 - limit) ** (sampled - k) for k in range(found))
    return share > limit and 1 - fewer < 0.01
