"""The sections of a job file, but for those of the methods: their keys, defaults, limits and help texts.

`tamis schema` prints the help texts.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from tamis.operators.conversation.dialects import JOIN
from tamis.pipeline.inputs.encodings import known_encoding


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


# In a job file, one value may stand for a list of one.
Names = Annotated[list[str], Field(min_length=1)]
DEFAULT_DROP = 0.1

RANKS = "ranks"
"""Instead of a method: the mean of the methods' ranks decides."""

DRIFT_LIMIT = 0.25
"""The usual reading of a PSI: up to 0.1 alike, up to 0.25 moved, beyond that another population."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class WorkerRange(Section):
    """How many copies of the model a cluster that grows may run."""

    min: int = Field(1, ge=1, description="How many must find room before the work begins.")
    max: int = Field(ge=1, description="As many as the nodes that come have room for, at most.")

    @model_validator(mode="after")
    def _in_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min is {self.min}, more than max, {self.max}")
        return self


class InputSpec(Section):
    """Where the corpus is and how to read it."""

    path: Annotated[list[str], BeforeValidator(as_list, json_schema_input_type=str | Names)] = Field(
        min_length=1,
        description="A file, a folder, a glob, a dataset of the Hugging Face hub (hf://datasets/ORG/NAME), or a list "
        "of these.",
    )
    config: str | None = Field(
        None, min_length=1, description="Which config of a hub dataset, or of a copy of one; needed if it has several."
    )
    split: str | None = Field(
        None,
        min_length=1,
        description="Which split of a hub dataset, of a folder whose file names tell splits, or of a folder of "
        "save_to_disk; needed if it has several.",
    )
    revision: str | None = Field(
        None, min_length=1, description="Branch, tag or commit of hf:// input; default: the main branch as it is now."
    )
    format: Literal["auto", "jsonl", "json", "parquet", "csv", "tsv", "arrow"] = Field(
        "auto",
        description="File format; auto goes by the file's ending, or its content if it has none (.gz, .zst, .bz2, .xz "
        "and .lz4 are unpacked).",
    )
    delimiter: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="What stands between the fields of CSV and TSV; default: what gives every row as many fields.",
    )
    quoting: Literal["auto", "csv", "none"] = Field(
        "auto",
        description="csv: fields of CSV and TSV may stand in quotes; none: a quote is a character like any other; "
        "auto: none only for fields between tabs that cannot be read with quotes.",
    )
    field: str | None = Field(
        None,
        min_length=1,
        description="Of a JSON file that is one object, the key with its rows; default: the only one with a list of "
        "objects.",
    )
    encoding: str | None = Field(
        None,
        description="Encoding of text files that are not UTF-8, of one byte a character: cp1252 (Windows), latin-1.",
    )
    dialect: str | None = Field(
        None,
        description="How a row holds its conversation, e.g. messages, sharegpt, alpaca, text; default: detected.",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Which column holds which part, e.g. {prompt: q, response: a}, {text: chosen}; default: detected.",
    )
    join: str = Field(
        JOIN,
        max_length=1000,
        description="What stands between the instruction and the input of an Alpaca row, in references too; default: "
        "one newline, as LARF's authors and LLaMA-Factory have it.",
    )

    @field_validator("encoding")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        return None if value is None else known_encoding(value) or None

    @field_validator("delimiter")
    @classmethod
    def _one_that_can_be(cls, value: str | None) -> str | None:
        if value is not None and value in '\r\n"\0':
            raise ValueError("a line's end or a quote cannot stand between fields")
        return value


class ModelSpec(Section):
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
        description="Tokens, padding included, in one batch of the forward pass; auto: 2,048 on a CPU (4,096 "
        "with compile), 8,192 on a GPU.",
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


class LineageSpec(Section):
    """OpenLineage events of a run: what it reads and writes, and how it ends."""

    to: str = Field(
        min_length=1,
        description="File to which events are added, a JSON object a line; config: where the configuration of the "
        "OpenLineage client (OPENLINEAGE_URL, OPENLINEAGE_CONFIG, openlineage.yml) says.",
    )
    job: str | None = Field(
        None, min_length=1, description="Name of the job in the events; default: curate. and the output folder's name."
    )


class SelectionSpec(Section):
    """What to drop, given the scores. One of drop, drop_count and threshold; drop 0.1 if none is given."""

    drop: float | None = Field(None, gt=0, lt=1, description="Share of the scored rows to drop, the riskiest first.")
    drop_count: int | None = Field(None, ge=0, description="Number of rows to drop, the riskiest first.")
    threshold: float | None = Field(None, allow_inf_nan=False, description="Drop every row whose score is above this.")
    by: str | None = Field(
        None,
        description="With several methods: whose score decides; ranks: the mean of their ranks (0 to 1); default: the "
        "first.",
    )
    control: Literal["random", "length_matched"] | None = Field(
        None,
        description="For a controlled comparison, drop the same number of rows at random instead (seeded); "
        "length_matched: as many of each tenth by answer length as the cut would drop.",
    )
    within: Literal["source", "length_decile"] | None = Field(
        None,
        description="Drop the same share inside every group of rows: of each input file, or of each tenth by answer "
        "length.",
    )
    allow_majority: bool = Field(False, description="Permit a cut-off that drops more than half of the corpus.")

    @model_validator(mode="after")
    def _one_rule(self) -> SelectionSpec:
        given = [name for name in ("drop", "drop_count", "threshold") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give only one of {', '.join(given)}")
        if self.control is not None and self.threshold is not None:
            raise ValueError("control needs drop or drop_count: a threshold fits one method's scores only")
        if self.within is not None and (self.threshold is not None or self.drop_count is not None):
            raise ValueError("within drops the same share of every group; give drop, not drop_count or threshold")
        if self.within is not None and self.control == "length_matched":
            raise ValueError("control: length_matched has groups of its own, so within cannot be given with it")
        if self.drop is not None and self.drop > 0.5 and not self.allow_majority:
            raise ValueError(f"drop {self.drop:g} is more than half; set allow_majority: true if that is meant")
        return self

    @property
    def is_default(self) -> bool:
        """Whether the job sets nothing in this section."""
        return self == SelectionSpec()

    @property
    def has_groups(self) -> bool:
        """Whether groups of rows have cuts of their own, so that no score separates what fell from what did not."""
        return self.within is not None or self.control == "length_matched"

    @property
    def in_words(self) -> str:
        """What is to fall, for people: "drop 0.1"."""
        rule, amount = self.rule
        said = f"{rule.replace('_', ' ')} {f'{int(amount):,}' if rule == 'drop_count' else f'{amount:g}'}"
        said += f" within each {self.within}" if self.within else ""
        return said + (f", {self.control} control" if self.control else "")

    @property
    def rule(self) -> tuple[Literal["drop", "drop_count", "threshold"], float]:
        """Which of the three rules applies, and its number."""
        if self.drop_count is not None:
            return "drop_count", self.drop_count
        if self.threshold is not None:
            return "threshold", self.threshold
        return "drop", DEFAULT_DROP if self.drop is None else self.drop
