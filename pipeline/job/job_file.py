"""The job file: what to read, with which model and method, what to drop, where to write.

Every key but input, output, model.name and method has a default. An unknown key is an error that names the key that was
probably meant. Settings from the command line override those of the file.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)

from tamis.operators.conversation.dialects import JOIN
from tamis.operators.methods import METHODS, Csa, Toss
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.added_columns import WithIds
from tamis.pipeline.job import strict_yaml
from tamis.pipeline.job.methods import known, sections, settings_of
from tamis.pipeline.job.schedule import ScheduleSpec
from tamis.pipeline.job.sections import (
    DRIFT_LIMIT,
    RANKS,
    InputSpec,
    LineageSpec,
    ModelSpec,
    Names,
    Section,
    SelectionSpec,
    WorkerRange,
    as_list,
)
from tamis.pipeline.storage.addresses import scheme_of
from tamis.pipeline.storage.credentials import looks_secret, secret_in

_Input = Annotated[
    InputSpec,
    BeforeValidator(
        lambda v: {"path": v} if isinstance(v, str | list) else v,
        json_schema_input_type=InputSpec | str | Names,
    ),
]


_SAMPLES, _TOKENS = ([name for name, kind in METHODS.items() if kind.masks_tokens == masks] for masks in (False, True))
_METHOD = (
    f"How to score: {', '.join(_SAMPLES)}, what installed distributions offer, or a list of these; or "
    f"{' or '.join(_TOKENS)}, which mask tokens."
)


def _known_method(name: str) -> str:
    if name not in known():
        *most, last = [repr(method) for method in known()]
        near = difflib.get_close_matches(name, known(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"there is {', '.join(most)} or {last}{hint}")
    return name


_MethodName = Annotated[
    str, AfterValidator(_known_method), Field(json_schema_extra=lambda schema: schema.update(enum=[*known()]))
]
_MethodList = Annotated[
    list[_MethodName], BeforeValidator(as_list, json_schema_input_type=_MethodName | list[_MethodName])
]


_Workers = Annotated[
    Annotated[int, Field(ge=1), Tag("int")] | Annotated[WorkerRange, Tag("WorkerRange")],
    # So that an error names the method that was meant.
    Discriminator(lambda value: "WorkerRange" if isinstance(value, dict | WorkerRange) else "int"),
]


def _kept(value: Any) -> Any:
    """The forms of earlier versions: true was for vectors."""
    return {True: "vectors", False: "none"}[value] if isinstance(value, bool) else value


def _with_ids(value: Any) -> Any:
    return {True: "all", False: "none"}[value] if isinstance(value, bool) else value


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def _bytes(value: Any) -> Any:
    """128 MB -> 128000000; any other value as it is."""
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", value) if isinstance(value, str) else None
    if found is None:
        return value
    if found[2].lower() not in _UNITS:
        raise ValueError(f"there is no unit {found[2]}; write a number of bytes, or 128 MB, 1 GB, 512 MiB")
    return round(float(found[1]) * _UNITS[found[2].lower()])


class LayersJob(Section):
    """What `tamis layers` reads: the keys of a Job, of which only output and model must be there."""

    input: _Input | None = None
    output: str = Field(min_length=1, description="Folder or URL of the output; made if missing.")
    model: Annotated[
        ModelSpec,
        BeforeValidator(
            lambda v: {"name": v} if isinstance(v, str) else v,
            json_schema_input_type=ModelSpec | str,
        ),
    ]
    method: _MethodList = Field(["larf"], min_length=1, description=_METHOD)
    selection: SelectionSpec = SelectionSpec()
    max_tokens: int = Field(2048, ge=2, description="Longest rendered conversation, in tokens.")
    overlong: Literal["quarantine", "keep_end", "keep_start"] = Field(
        "quarantine",
        description="What happens to longer ones: set aside, or cut to the last or first max_tokens tokens.",
    )
    max_quarantined: float = Field(0.01, ge=0, le=1, description="Share of bad rows above which the run fails.")
    shard_rows: int = Field(2048, ge=1, description="Rows in one shard, the unit of work and of resuming.")
    workers: _Workers | None = Field(
        None,
        description="Copies of the model; default: one a GPU, or one a CPU node. {min, max} on a cluster that grows: "
        "begin as soon as min of them find room, and take what nodes come, up to max.",
    )
    readers: int | None = Field(
        None,
        ge=1,
        description="Tasks at a time that read and tokenise for the workers; default: one for each million tokens and "
        "at least one for each GPU worker, as far as the CPUs go.",
    )
    cluster_patience: float = Field(
        600,
        ge=0,
        allow_inf_nan=False,
        description="Seconds to wait for nodes that are not there yet, or for GPUs that other jobs use, before the run "
        "ends with exit code 5.",
    )
    worker_timeout: float = Field(
        1800,
        gt=0,
        allow_inf_nan=False,
        description="Seconds without progress, on a shard or in a training, after which a worker is taken for hung "
        "and replaced.",
    )
    seed: int = Field(0, description="Seed of everything random (selection.control, contrast.sample).")
    artifact: str | None = Field(
        None,
        min_length=1,
        description="Output of a finished run, or only its artifact/ (a folder or URL): score and cut with what was "
        "fitted there, at the same score; nothing is fitted anew. Settings that are not given are taken from it.",
    )
    drift_limit: float | None = Field(
        DRIFT_LIMIT,
        gt=0,
        allow_inf_nan=False,
        description="With artifact: the population stability index (PSI) between its corpus and this one above which "
        "the run ends with exit code 6, its output written all the same; null: no limit.",
    )
    schedule: ScheduleSpec | None = Field(
        None, description="A run a night, each over what is new, in folders of their own under schedule.root."
    )
    keep_captures: Annotated[
        Literal["none", "scores", "vectors"],
        BeforeValidator(_kept, json_schema_input_type=Literal["none", "scores", "vectors"] | bool),
    ] = Field(
        "none",
        description="What stays in OUT/_work. vectors (or true): all, for tamis curate --from, tune and "
        "refit, and your own analysis. scores: all but the vectors, and none are written, but for samples, where all "
        "methods are fitted to references alone or to rows drawn (they go first; so also with none where the vectors "
        "would be over 1 GiB). none (or false): nothing. With artifact, vectors are written for vectors only.",
    )
    sample_id: Annotated[WithIds, BeforeValidator(_with_ids, json_schema_input_type=WithIds | bool)] = Field(
        "dropped",
        description="Which rows of the output have a column sample_id (as in scores/, so that each is found again): "
        "those of dropped/; all (or true), those of kept/ too; none (or false). tamis_sample_id where the corpus has "
        "such a column.",
    )
    file_size: Annotated[int, BeforeValidator(_bytes, json_schema_input_type=int | str)] = Field(
        128_000_000,
        ge=0,
        le=4_000_000_000,  # what is written to an object store is held in memory until it is whole
        description="About how large the files of kept/ and dropped/ become, in bytes or as 128 MB, up to 4 GB: shards "
        "that follow each other are written into one file, in the order of the input. 0: each shard has files of its "
        "own. A task on an object store holds both files in memory.",
    )
    lineage: (
        Annotated[
            LineageSpec,
            BeforeValidator(lambda v: {"to": v} if isinstance(v, str) else v, json_schema_input_type=LineageSpec | str),
        ]
        | None
    ) = Field(None, description="Where `tamis curate` sends OpenLineage events; default: nowhere.")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options for the storage (endpoint_url, region, ...); never credentials.",
    )

    def of(self, method: str) -> Any:
        """The section of a method, which its class describes: `job.of("larf").layer`."""
        return getattr(self, known()[method].kind.section_name())

    def references_of(self, method: str) -> dict[str, str | None]:
        """Name -> file of each of the method's reference sets; None where the job names none."""
        return {name: getattr(self.of(method), f"{name}_references") for name in known()[method].kind.references}

    def models_of(self, method: str) -> dict[str, str]:
        """Name -> address of those of the method's reference models that the job names."""
        named = {name: getattr(self.of(method), f"{name}_model") for name in known()[method].kind.models}
        return {name: address for name, address in named.items() if address is not None}

    @property
    def join(self) -> str:
        """The text between the instruction and the input of an Alpaca row."""
        return self.input.join if self.input is not None else JOIN

    @model_validator(mode="after")
    def _consistent(self) -> LayersJob:
        if len(set(self.method)) != len(self.method):
            raise ValueError("method names a method twice")
        if self.selection.by == RANKS and len(self.method) < 2:
            raise ValueError("selection.by is ranks, the mean over several methods: name more than one in method")
        if self.selection.by not in {None, RANKS, *self.method}:
            raise ValueError(
                f"selection.by is {self.selection.by}, which is not among method: {', '.join(self.method)}"
            )
        if complaint := secret_in(self.storage_options):
            raise ValueError(complaint)
        return self

    @field_validator("output")
    @classmethod
    def _writable(cls, output: str) -> str:
        if scheme_of(output).lower() in {"http", "https"}:  # otherwise it would be retried for minutes
            raise ValueError("nothing can be written over http; use a folder or an object store")
        return output


class Job(LayersJob):
    """One run of `tamis curate`."""

    input: _Input
    method: _MethodList = Field(min_length=1, description=_METHOD)

    @model_validator(mode="before")
    @classmethod
    def _output_of_the_night(cls, tree: Any) -> Any:
        """The output follows from the schedule."""
        if not isinstance(tree, Mapping) or tree.get("schedule") is None:
            return tree
        if isinstance(tree["schedule"], Mapping) and not tree["schedule"].get("root"):
            return {"output": "unknown", **tree}  # that root is missing is enough to say
        if tree.get("output") is not None:
            raise ValueError("output follows from schedule.root and schedule.name; give output or schedule, not both")
        try:
            return {**tree, "output": ScheduleSpec.model_validate(tree["schedule"]).output}
        except ValidationError:
            return {**tree, "output": "unknown"}  # the schedule's own errors are enough

    @model_validator(mode="after")
    def _can_be_scheduled(self) -> Job:
        of_its_rows = self.selection.by == RANKS or self.selection.within is not None
        if of_its_rows and (self.artifact is not None or self._cuts_with_an_artifact):
            raise ValueError(
                "selection.by: ranks and selection.within cut among the rows of one run, and a cut of another run says "
                "nothing about them: leave artifact out, and set schedule.artifact: each_night"
            )
        if self._reads_several_models and (self.artifact is not None or self._cuts_with_an_artifact):
            raise ValueError(
                "csa.models: scores are scaled by the corpus of their own run, and an artifact of another run says "
                "nothing about them: leave artifact or csa.models out, and set schedule.artifact: each_night"
            )
        if self.schedule is None:
            return self
        if self.masks_tokens and self.schedule.artifact != "each_night":
            raise ValueError(
                f"{self.method[0]} masks tokens and has no artifact that another night could use: set "
                "schedule.artifact: each_night"
            )
        if self.artifact is not None and self.schedule.artifact != "frozen":
            raise ValueError("artifact names the one to use, and schedule.artifact another way: leave one of them out")
        if self.schedule.refit_every is not None and self.keep_captures != "vectors":
            raise ValueError(
                "schedule.artifact: refit_every fits from the captures of the nights before: set keep_captures: vectors"
            )
        hub = [path for path in self.input.path if scheme_of(path) == "hf"]
        if hub:
            raise ValueError(f"schedule: {hub[0]} has revisions, not files that arrive night by night; leave one out")
        return self

    @property
    def _cuts_with_an_artifact(self) -> bool:
        return self.schedule is not None and self.schedule.artifact != "each_night"

    @property
    def _reads_several_models(self) -> bool:
        section = getattr(self, Csa.section_name(), None)
        return Csa.name in self.method and section is not None and bool(section.models)

    @property
    def selected_by(self) -> str:
        """The method whose score decides, or RANKS."""
        return self.selection.by or self.method[0]

    @property
    def masks_tokens(self) -> bool:
        """Whether the method masks tokens instead of dropping samples."""
        return known()[self.method[0]].kind.masks_tokens

    @property
    def masking(self) -> Toss:
        """The method that masks tokens, with its settings. Only of a job that masks tokens."""
        kind = known()[self.method[0]].kind
        assert issubclass(kind, Toss)
        return kind(**settings_of(kind, self.of(kind.name)))

    @model_validator(mode="after")
    def _one_kind(self) -> Job:
        named = [name for name in self.method if known()[name].kind.masks_tokens]
        if not named:
            return self
        if self.artifact is not None:
            raise ValueError(
                f"artifact: what {named[0]} has fitted cannot be applied to new data yet; leave it out, or name the "
                "adapters of the earlier run in toss.utility_model and toss.harmful_model"
            )
        if len(self.method) > 1:
            raise ValueError(f"method: {named[0]} masks tokens and runs by itself; run the other methods as jobs apart")
        if not self.selection.is_default:
            raise ValueError(f"selection says which samples fall; {named[0]} masks tokens: set toss.discard instead")
        if self.model.compile or self.model.attention != "padded":
            raise ValueError(
                f"model.compile and model.attention are for methods that read representations; leave them out with "
                f"{named[0]}"
            )
        references = {name for name, file in self.references_of(named[0]).items() if file is not None}
        if (complaint := self.masking.complaint(references, self.models_of(named[0]))) is not None:
            raise ValueError(complaint)
        return self


_AnyJob = TypeVar("_AnyJob", bound=LayersJob)


@functools.cache
def _with_methods(kind: type[LayersJob]) -> Any:
    """The same job class with a section for every known method."""
    keys: dict[str, Any] = {name: (section, section()) for name, section in sections().items()}
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, **keys)


def storage_options(assignments: Sequence[str]) -> dict[str, Any]:
    """Storage options from `a.b=value` assignments. Raises ConfigError, which repeats no value."""
    options: dict[str, Any] = {}
    for dotted, text in _assigned("--storage-options", assignments, "endpoint_url=http://127.0.0.1:9000"):
        _put(options, dotted, _value(f"--storage-options {dotted}", text))
    _check_plain(options)
    if complaint := secret_in(options):
        raise ConfigError(complaint)
    return options


def load_job(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str] = ()) -> Job:
    """The job of the YAML file at `path` (or an empty one), overridden by dotted keys and by `a.b=value` assignments.

    Raises ConfigError with one line per problem, which names the key, the value and what is allowed.
    """
    return _validated(Job, _tree(path, overlay, assignments))


def settings_in(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str] = ()) -> dict[str, Any]:
    """The settings that such a job gives, and no defaults: of sections, as sections. Raises ConfigError where it cannot
    be read; whether the values are allowed is told by `load_job`."""
    tree = _tree(path, overlay, assignments)
    for key, name in _SHORT_FORMS.items():
        if key in tree and tree[key] is not None and not isinstance(tree[key], dict):
            tree[key] = {name: tree[key]}
    return tree


def load_layers_job(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str] = ()) -> LayersJob:
    """The same for `tamis layers`, which needs no input and no method."""
    return _validated(LayersJob, _tree(path, overlay, assignments))


def _tree(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for dotted, value in overlay.items():
        _put(tree, dotted, value)
    for dotted, text in _assigned("--set", assignments, "larf.layer=5"):
        _put(tree, dotted, _value(f"--set {dotted}", text))
    _check_plain(tree)
    return tree


def _assigned(flag: str, assignments: Sequence[str], example: str) -> Iterator[tuple[str, str]]:
    """(dotted key, text of the value) of each `a.b=value`. Raises ConfigError, which repeats no value."""
    seen: set[str] = set()
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        dotted = dotted.strip()
        if not equals or not dotted:
            # The text may contain a value, so it is not repeated.
            raise ConfigError(f"{flag}: one of them is no key=value; write it as key=value, e.g. {flag} {example}")
        if dotted in seen:
            raise ConfigError(f"{flag} {dotted} is given twice; keep one of them")
        seen.add(dotted)
        yield dotted, text


def _value(where: str, text: str) -> Any:
    try:
        return strict_yaml.parse(text)
    except ValueError as error:
        raise ConfigError(f"{where}: the value is {error}") from None


def _check_plain(tree: Any) -> None:
    """ConfigError for values that no key can have and that would fail later: numbers beyond 64 bits, text with a NUL or
    half a character, a section that contains itself."""
    pending: list[tuple[str, Any, int]] = [("", tree, 0)]
    while pending:
        where, value, depth = pending.pop()
        if depth > _DEEPEST:
            raise ConfigError(f"{where.split('.')[0]}: nested too deeply, or holds itself")
        if isinstance(value, Mapping):
            # A key may also contain characters that no text may have.
            pending += [(where, key, depth + 1) for key in value]
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        pending += [(f"{where}.{key}" if where else f"{key}", inner, depth + 1) for key, inner in items]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ConfigError(f"{where}: a number of more than 64 bits")
        if isinstance(value, str) and _UNUSABLE.search(value):
            raise ConfigError(f"{where}: holds a NUL character or half a surrogate pair, which no path or text may")


_DEEPEST = 50
_UNUSABLE = re.compile("[\0\ud800-\udbff]|[\udc00-\udc7f\udd00-\udfff]")
"""Characters that no text may have. The other surrogates stand for bytes of a file name that is not UTF-8."""


def _validated(kind: type[_AnyJob], tree: dict[str, Any]) -> _AnyJob:
    try:
        job: _AnyJob = _with_methods(kind).model_validate(tree)
    except ValidationError as error:
        raise ConfigError(*_explain(error)) from None
    return job


def job_schema() -> dict[str, Any]:
    """The JSON schema of the job file."""
    schema: dict[str, Any] = _with_methods(Job).model_json_schema()
    schema["required"].remove("output")
    schema["oneOf"] = [{"required": ["output"]}, {"required": ["schedule"]}]
    return schema


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a job file ({error})") from None
    try:
        tree = strict_yaml.parse(text)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a job file is a mapping of keys to values; see `tamis schema`")
    return tree


_SHORT_FORMS = {"input": "path", "model": "name", "lineage": "to"}
"""Sections that may be given as a plain value: `input: data.jsonl` means `input: {path: data.jsonl}`."""


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, leaf = dotted.split(".")
    here = tree
    for depth, key in enumerate(parents):
        inner = here.get(key)
        if inner is not None and not isinstance(inner, dict) and depth == 0 and key in _SHORT_FORMS:
            inner = {_SHORT_FORMS[key]: inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{dotted}: {'.'.join(parents[: depth + 1])} is a value, not a section")
        here[key] = inner
        here = inner
    here[leaf] = value


def _explain(error: ValidationError) -> list[str]:
    lines: list[str] = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"] if not _is_union_branch(part))
        if problem["type"] == "extra_forbidden":
            location = [part for part in problem["loc"] if not _is_union_branch(part)]
            line = _not_offered(location) or f"unknown key {where}{_did_you_mean(location)}"
        elif problem["type"] == "missing":
            line = f"{where} is missing; set it in the job file{_flag_for(where)}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = _got(where, problem["input"])
            line = f"{where + ': ' if where else ''}{message[:1].lower()}{message[1:]}{value}"
        if line not in lines:
            lines.append(line)
    return lines


def _got(where: str, value: Any) -> str:
    """The value, for a message; not if it is long or may be a secret."""
    if isinstance(value, dict | list) or where.startswith("storage_options") or looks_secret("", str(value)):
        return ""
    said = repr(value)
    return f" (got {said})" if len(said) <= _LONGEST_SHOWN else f" (got {said[:_LONGEST_SHOWN]}...)"


_LONGEST_SHOWN = 100


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and (
        part.startswith(("literal[", "constrained", "function-"))
        or part in {"int", "str", "WorkerRange", "RefitEvery", "one-word"}
    )


def _flag_for(key: str) -> str:
    flags = {
        "input": "--input",
        "output": "--output",
        "model": "--model",
        "model.name": "--model",
        "method": "--method",
    }
    return f" or with {flags[key]}" if key in flags else ""


def _not_offered(location: Sequence[int | str]) -> str | None:
    """What a method says of a setting that its paper has and it does not."""
    section, name = str(location[0]), str(location[-1])
    kinds = [item.kind for item in known().values() if item.kind.section_name() == section]
    said = next((kind.not_offered[name] for kind in kinds if name in kind.not_offered), None)
    return None if said is None or len(location) != 2 else f"{section}.{name}: {said}"


def _did_you_mean(location: Sequence[int | str]) -> str:
    section: Any = _with_methods(Job)
    for part in location[:-1]:
        section = _section_of(section, str(part)) or section
    near = difflib.get_close_matches(str(location[-1]), list(section.model_fields), n=1, cutoff=0.5)
    if near:
        prefix = ".".join(str(part) for part in location[:-1])
        return f"; did you mean {prefix + '.' if prefix else ''}{near[0]}?"
    return f"; known here: {', '.join(section.model_fields)}"


def _section_of(section: Any, name: str) -> Any:
    field = section.model_fields.get(name)
    kind = field.annotation if field is not None else None
    # A section that may be left out is one of two kinds, and the other is None.
    kinds = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(kind) or (kind,)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
