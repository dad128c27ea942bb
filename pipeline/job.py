"""The job file: what to read, with which model and method, what to drop, where to write.

Every key but input, output, model.name and method has a default. An unknown key is an error that names the key
that was probably meant. Settings that come from the command line overlay those of the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from tamis.operators.methods import METHODS
from tamis.operators.requests import POSITIONS
from tamis.pipeline.credentials import secret_in
from tamis.pipeline.errors import ConfigError

MethodName = Literal["larf", "saft"]
Position = Literal["last_token", "last_prompt_token", "response_mean"]
assert get_args(MethodName) == tuple(METHODS), "the job file must name exactly the methods there are"
assert get_args(Position) == POSITIONS


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# What a job file may hold where one value stands for a list of one.
_Names = Annotated[list[str], Field(min_length=1)]
_Methods = Annotated[list[MethodName], Field(min_length=1)]
# A blank one would stand in nearly every answer.
_Marker = Annotated[str, StringConstraints(pattern=r"\S")]
_Markers = Annotated[list[_Marker], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]

DEFAULT_DROP = 0.1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class InputSpec(_Section):
    """Where the corpus is and how to read it."""

    path: Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | _Names)] = Field(
        min_length=1, description="A file, a folder, a glob, or a list of these."
    )
    format: Literal["auto", "jsonl", "json", "parquet", "csv", "tsv", "arrow"] = Field(
        "auto", description="File format; auto goes by the file's ending (.gz and .zst are unpacked)."
    )
    dialect: str | None = Field(
        None,
        description="How a row holds its conversation, e.g. messages, sharegpt, alpaca, text; default: detected.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Which column holds which part, e.g. {prompt: q, response: a}, {text: chosen}; default: detected.",
    )


class ModelSpec(_Section):
    """The aligned chat model whose representations are read."""

    name: str = Field(description="A folder with a transformers model, or its name on the Hugging Face hub.")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the forward pass; auto: bfloat16 on a GPU, float32 on a CPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the forward pass runs.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")
    allow_pickle_weights: bool = Field(
        False, description="Load .bin weights (pickle can run code) if there are no safetensors."
    )
    template: str | None = Field(
        None, description="A jinja chat template, or a file holding one; default: the tokenizer's own."
    )
    gpus_per_worker: float = Field(
        1.0, gt=0, description="GPUs each worker takes on a GPU cluster; fractions share a GPU."
    )
    token_budget: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        description="Tokens, padding included, in one batch of the forward pass; auto: 2,048 on a CPU, 8,192 on a GPU.",
    )
    attention: Literal["padded", "packed"] = Field(
        "padded",
        description="packed: the rows of a batch as one sequence without any padding, for GPUs in half precision; an "
        "architecture that cannot is refused.",
    )
    compile: bool = Field(
        False,
        description="Fuse the element-wise work of each block with torch.compile: faster on large corpora, after a "
        "start of seconds to minutes; needs a C++ compiler on CPUs.",
    )
    exact: bool = Field(
        False,
        description="One row at a time, so that a row's numbers are the same to the bit whatever shares its shard; "
        "several times slower.",
    )

    @field_validator("gpus_per_worker")
    @classmethod
    def _whole_gpus(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError("above 1 it must be a whole number")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> ModelSpec:
        if self.exact and self.token_budget != "auto":
            raise ValueError("exact runs one row at a time, so token_budget has no meaning; give one of them")
        return self


class LarfSpec(_Section):
    """LARF: cosine to harmful compliance minus cosine to refusal, at one block."""

    layer: Literal["auto", "fisher"] | Annotated[int, Field(ge=0)] = Field(
        "auto",
        description="0-based block whose output is read; auto: the most safety-sensitive one, searched first where the "
        "output holds no search of it yet (see tamis layers); fisher: the one whose states best part the references.",
    )
    position: Position = Field("last_token", description="Which token's state stands for the sample.")
    form: Literal["paired", "mean_representation"] = Field(
        "paired", description="paired: the authors' code; mean_representation: the paper's text."
    )
    unsafe_references: str | None = Field(
        None, description="File of harmful prompts with complying answers; default: the shipped set."
    )
    safe_references: str | None = Field(
        None, description="File of the same prompts with refusals; default: the shipped set."
    )
    over_rejection_prompts: str | None = Field(
        None,
        description="File of harmless prompts that sound unsafe (column prompt), for the search of layer: auto; "
        "default: the shipped set.",
    )
    refusal_markers: _Markers = Field(
        default_factory=list,
        description="Texts that mark a refusal, besides can not, cannot, can't and sorry, for layer: auto.",
    )


class SaftSpec(_Section):
    """SAFT: squared projection on the leading singular directions of the corpus."""

    layer: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        "auto", description="0-based block whose output is read; auto: the middle block."
    )
    position: Position = Field("last_token", description="Which token's state stands for the sample.")
    k: int = Field(1, ge=1, description="How many singular directions.")
    weighted: bool = Field(False, description="Weigh each direction by its singular value (the ancestor's form).")


class SelectionSpec(_Section):
    """What to drop, given the scores. One of drop, drop_count and threshold; drop 0.1 if none is given."""

    drop: float | None = Field(None, gt=0, lt=1, description="Share of the scored rows to drop, the riskiest first.")
    drop_count: int | None = Field(None, ge=0, description="Number of rows to drop, the riskiest first.")
    threshold: float | None = Field(None, allow_inf_nan=False, description="Drop every row whose score is above this.")
    by: MethodName | None = Field(None, description="With several methods: whose score decides; default: the first.")
    control: Literal["random"] | None = Field(
        None,
        description="random: drop the same number of rows at random instead (seeded), for a controlled comparison.",
    )
    allow_majority: bool = Field(False, description="Permit a cut-off that drops more than half of the corpus.")

    @model_validator(mode="after")
    def _one_rule(self) -> SelectionSpec:
        given = [name for name in ("drop", "drop_count", "threshold") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        if self.control is not None and self.threshold is not None:
            raise ValueError("control needs drop or drop_count: a threshold fits one method's scores only")
        if self.drop is not None and self.drop > 0.5 and not self.allow_majority:
            raise ValueError(f"drop {self.drop:g} is more than half; set allow_majority: true if that is meant")
        return self

    @property
    def rule(self) -> tuple[Literal["drop", "drop_count", "threshold"], float]:
        """Which of the three rules holds, and its number."""
        if self.drop_count is not None:
            return "drop_count", self.drop_count
        if self.threshold is not None:
            return "threshold", self.threshold
        return "drop", DEFAULT_DROP if self.drop is None else self.drop


_Input = Annotated[
    InputSpec,
    BeforeValidator(
        lambda v: {"path": v} if isinstance(v, str | list) else v,
        json_schema_input_type=InputSpec | str | _Names,
    ),
]
_MethodList = Annotated[list[MethodName], BeforeValidator(_as_list, json_schema_input_type=MethodName | _Methods)]


class LayersJob(_Section):
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
    method: _MethodList = Field(["larf"], min_length=1, description="How to score: larf, saft, or a list of them.")
    larf: LarfSpec = LarfSpec()
    saft: SaftSpec = SaftSpec()
    selection: SelectionSpec = SelectionSpec()
    max_tokens: int = Field(2048, ge=2, description="Longest rendered conversation, in tokens.")
    overlong: Literal["quarantine", "keep_end", "keep_start"] = Field(
        "quarantine",
        description="What happens to longer ones: set aside, or cut to the last or first max_tokens tokens.",
    )
    max_quarantined: float = Field(0.01, ge=0, le=1, description="Share of bad rows above which the run fails.")
    shard_rows: int = Field(2048, ge=1, description="Rows in one shard, the unit of work and of resuming.")
    workers: int | None = Field(None, ge=1, description="Copies of the model; default: one a GPU, or one a CPU node.")
    seed: int = Field(0, description="Seed of everything random (only selection.control is).")
    keep_captures: bool = Field(False, description="Keep OUT/_work with the captured vectors, for your own analysis.")
    storage_options: dict[str, Any] = Field(
        default_factory=dict,
        description="Options for the storage (endpoint_url, region, ...); never credentials.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> LayersJob:
        if len(set(self.method)) != len(self.method):
            raise ValueError("method names a method twice")
        if self.selection.by is not None and self.selection.by not in self.method:
            raise ValueError(
                f"selection.by is {self.selection.by}, which is not among method: {', '.join(self.method)}"
            )
        if complaint := secret_in(self.storage_options):
            raise ValueError(complaint)
        return self


class Job(LayersJob):
    """One run of `tamis curate`."""

    input: _Input
    method: _MethodList = Field(min_length=1, description="How to score: larf, saft, or a list of them.")

    @property
    def selected_by(self) -> MethodName:
        """The method whose score decides."""
        return self.selection.by or self.method[0]


_AnyJob = TypeVar("_AnyJob", bound=LayersJob)


def storage_options(assignments: Sequence[str]) -> dict[str, Any]:
    """Options for the storage from `a.b=value` assignments. ConfigError, which repeats no value."""
    options: dict[str, Any] = {}
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError("--storage-options: write them as key=value, e.g. endpoint_url=http://127.0.0.1:9000")
        try:
            _put(options, dotted.strip(), yaml.safe_load(text))
        except yaml.YAMLError:
            raise ConfigError(f"--storage-options {dotted}: the value is not valid YAML") from None
    if complaint := secret_in(options):
        raise ConfigError(complaint)
    return options


def load_job(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str] = ()) -> Job:
    """The job of the YAML file at `path` (or an empty one), overlaid by dotted keys and by `a.b=value` assignments.

    Raises ConfigError: one line per problem, naming the key, the value and what is allowed.
    """
    return _validated(Job, _tree(path, overlay, assignments))


def load_layers_job(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str] = ()) -> LayersJob:
    """The same for `tamis layers`, which needs no input and no method."""
    return _validated(LayersJob, _tree(path, overlay, assignments))


def _tree(path: str | None, overlay: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    tree: dict[str, Any] = _read_yaml(path) if path is not None else {}
    for dotted, value in overlay.items():
        _put(tree, dotted, value)
    for assignment in assignments:
        dotted, equals, text = assignment.partition("=")
        if not equals or not dotted:
            raise ConfigError(f"--set {assignment}: write it as key=value, e.g. --set larf.layer=5")
        _put(tree, dotted.strip(), _scalar(text, assignment))
    return tree


def _validated(kind: type[_AnyJob], tree: dict[str, Any]) -> _AnyJob:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error))) from None


def job_schema() -> dict[str, Any]:
    """The JSON schema of the job file."""
    return Job.model_json_schema()


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a job file ({error})") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a job file is a mapping of keys to values; see `tamis schema`")
    return tree


def _scalar(text: str, assignment: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {assignment}: the value is not valid YAML") from None


_SHORT_FORMS = {"input": "path", "model": "name"}
"""Sections that may be given as a plain value: `input: data.jsonl` is `input: {path: data.jsonl}`."""


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
            line = f"unknown key {where}{_did_you_mean(problem['loc'])}"
        elif problem["type"] == "missing":
            line = f"{where} is missing; set it in the job file{_flag_for(where)}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            value = "" if isinstance(problem["input"], dict | list) else f" (got {problem['input']!r})"
            line = f"{where + ': ' if where else ''}{message[:1].lower()}{message[1:]}{value}"
        if line not in lines:
            lines.append(line)
    return lines


def _is_union_branch(part: int | str) -> bool:
    return isinstance(part, str) and (
        part.startswith(("literal[", "constrained", "function-")) or part in {"int", "str"}
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


def _did_you_mean(location: Sequence[int | str]) -> str:
    section: Any = Job
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
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
