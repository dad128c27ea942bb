"""What a method is: what to capture, how to fit a small artifact by one reduce, how to score with it.

A method is a frozen dataclass that derives from `AnyMethod`: through `Method` if it scores samples, and through `Toss`
if it masks tokens. It declares everything about itself: its name and title, its settings (the fields; `setting` gives
each a default, a help text and limits), its papers, its reference sets and models, and how to read its score. The job
file's section, `tamis schema`, the plan, the fingerprint and the report are derived from this.

A method never sees Ray: `fit` gets a `Reduce` handle, which runs in process in a test and as a tree of tasks in
production, over the same tree.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from tamis.operators.requests import Request

T = TypeVar("T")

Features = Mapping[str, npt.NDArray[np.float32]]
"""One shard's captured vectors: Request.column -> float32 (n, d). Rows with problems are already removed; n may be
0."""

CORPUS = "corpus"


@dataclass(frozen=True, eq=False)
class Artifact:
    """Everything needed to score new data in the same way.

    arrays: float32 or float64. facts: JSON-compatible values for the manifest and the report. A method that reads one
    vector per sample writes "layer" (0-based: the output of that block), "position" and "columns" (the Request.column
    names that `score` reads). One that reads several blocks writes "blocks", a list, in place of "layer".
    """

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)


class Reduce(Protocol):
    """Maps every shard of a source, then combines the results pairwise over the fixed tree of `tree_reduce`.

    Raises ValueError for a source that does not exist or has no shards.
    """

    def __call__(self, map: Callable[[Features], T], combine: Callable[[T, T], T], source: str = CORPUS) -> T: ...


def setting(default: Any, help: str, *, in_job: bool = True, unordered: bool = False, **limits: Any) -> Any:
    """A field of a method that a job may set.

    default: for a list, each instance gets a new copy; `...` for a setting that must be given. help: one or two
    sentences for people. in_job: False for a field that only code sets. unordered: of a list, whose order means
    nothing: a job has it sorted. limits: ge, gt, le, lt for a number, pattern for a text, min_length for a list, as in
    pydantic. A field that is itself a dataclass of settings becomes a section within the section, a list of such a
    dataclass a list of sections; where only its first field is given, that value may stand for the section.
    """
    metadata = {"help": help, "in_job": in_job, "unordered": unordered, "limits": limits}
    if default is ...:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class AnyMethod(ABC):
    """What every method says about itself. Settings are the fields of the frozen dataclass; creating it with invalid
    settings raises ValueError.

    name: used in job files, columns and file names: lower case letters, digits, underscores. title: for people.
    about: one sentence, the help text of the section. papers: numbers on arXiv. section: of the job file, where that is
    not the name; methods that name the same one share it. references: name -> help text of each reference set that is
    needed besides the corpus; a job names its file as NAME_references. models: the same for each fine-tune of the
    model that is needed; it is trained on the reference set of its name, unless a job names one as NAME_model.
    masks_tokens: whether it masks the loss of tokens instead of dropping samples. not_offered: settings that a reader
    of the paper may look for and that the method does not have, each with what to do instead.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    papers: ClassVar[tuple[str, ...]] = ()
    section: ClassVar[str] = ""
    references: ClassVar[Mapping[str, str]] = {}
    models: ClassVar[Mapping[str, str]] = {}
    masks_tokens: ClassVar[bool] = False
    not_offered: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def section_name(cls) -> str:
        """The section of the job file that has its settings."""
        return cls.section or cls.name

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        """The names of the reference sets."""
        return tuple(cls.references)

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        """How to read a score, in a few sentences. facts: the settings, and the artifact's facts known so far."""
        return f"{cls.title}: {cls.about}"


@dataclass(frozen=True)
class BlockSearch:
    """What the search for a method's block needs of it.

    method: its name. layer: "auto" for the block that the refusals name, "fisher" for the one that the Fisher ratios
    name, or the block that a job has chosen. prompts: file of harmless prompts that sound unsafe; None for the shipped
    one. markers: texts that mark a refusal, besides the usual ones. sets: the names of the two reference sets that the
    ratios compare.
    """

    method: str
    layer: str | int
    prompts: str | None
    markers: tuple[str, ...]
    sets: tuple[str, str]

    @property
    def open(self) -> bool:
        """Whether no block is chosen."""
        return isinstance(self.layer, str)

    @property
    def by_refusals(self) -> bool:
        return self.layer == "auto"


@dataclass(frozen=True)
class CorpusSample:
    """How many rows of the corpus, drawn at random, `fit` is content to read in place of all of them.

    rows: how many; 0 for all. always: whether they are drawn in any case; if not, only where the vectors of the whole
    corpus would be written for this fit alone.
    """

    rows: int
    always: bool


class Method(AnyMethod):
    """Base class for one way to score samples.

    reads_corpus: whether `fit` reads the source CORPUS. Where it reads reference sets alone, a method may be fitted
    before the corpus is captured, and score it in the pass that captures it.
    """

    reads_corpus: ClassVar[bool] = True

    def corpus_sample(self) -> CorpusSample | None:
        """What `fit` takes for the source CORPUS, if a sample can do; None: it reads the whole corpus. The setting that
        decides it is called `sample`."""
        return None

    def block_search(self) -> BlockSearch | None:
        """What the layer search needs, if it may choose the block."""
        return None

    @abstractmethod
    def requests(self, blocks: int) -> tuple[Request, ...]:
        """What to capture from a model with this number of blocks. ValueError if a layer does not exist."""

    def planned(self, blocks: int, references: Mapping[str, int]) -> str:
        """What a plan should say of it besides its settings, in one line. references: the rows of each of its sets;
        empty where an artifact is applied."""
        return ""

    def check(self, width: int) -> None:
        """ValueError if the settings do not fit vectors of `width` dimensions."""
        return

    @abstractmethod
    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """Computes the global statistics. ValueError if the data is not sufficient for them."""

    @abstractmethod
    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        """float32 (n,), higher = riskier. ValueError if the vectors do not fit the artifact."""

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        """What a person should know before trusting a cut that drops this share, in sentences with numbers."""
        return []


def tree_reduce(parts: Iterable[T], combine: Callable[[T, T], T]) -> T:
    """Combines adjacent pairs, then pairs of pairs, and so on; an unpaired result moves up to the next level.

    The tree depends only on the number of parts, so the result is identical to the bit wherever it is computed. Any
    2^j adjacent parts that start at a multiple of 2^j form a subtree, which may be computed separately. Reads `parts`
    once and holds at most log2(n) + 1 results. Raises ValueError if there are no parts.
    """
    # A binary counter: the stack holds complete subtrees of decreasing size.
    stack: list[tuple[int, T]] = []
    for part in parts:
        size = 1
        while stack and stack[-1][0] == size:
            part = combine(stack.pop()[1], part)
            size *= 2
        stack.append((size, part))
    if not stack:
        raise ValueError("nothing to reduce: there are no parts")
    result = stack.pop()[1]
    while stack:
        result = combine(stack.pop()[1], result)
    return result


def reduce_in_process(shards: Mapping[str, Sequence[Features]]) -> Reduce:
    """A Reduce over shards held in memory: source name -> its shards in plan order."""

    def reduce(map: Callable[[Features], T], combine: Callable[[T, T], T], source: str = CORPUS) -> T:
        if not shards.get(source):
            raise ValueError(f"source {source!r} has no shards; there are {sorted(shards)}")
        return tree_reduce((map(features) for features in shards[source]), combine)

    return reduce


def check_layer(method: str, layer: int | str) -> None:
    """Raises ValueError unless layer is "auto" or a block number."""
    if layer != "auto" and (not isinstance(layer, int) or isinstance(layer, bool) or layer < 0):
        raise ValueError(f'{method}.layer={layer!r}: write "auto" or a block number, counted from 0')


def resolve_layer(method: str, layer: int | Literal["auto"], default: int, blocks: int) -> int:
    """The block to read: `default` for "auto". Raises ValueError if the model has no such block."""
    block = default if layer == "auto" else layer
    if block >= blocks:
        raise ValueError(f"{method}.layer={block}: the model has blocks 0 to {blocks - 1}")
    return block


def vectors_for(artifact: Artifact, features: Features, width: int) -> npt.NDArray[np.float64]:
    """float64 (n, d): the one column that `artifact` was fitted on. ValueError as for `vectors`."""
    (column,) = artifact.facts["columns"]
    return vectors(features, column, width)


def vectors(features: Features, column: str, width: int) -> npt.NDArray[np.float64]:
    """float64 (n, d): a column that an artifact of this width reads. ValueError if it is missing or has another
    width."""
    if column not in features:
        raise ValueError(f"the artifact needs {column}; captured were {sorted(features)}")
    rows = features[column]
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{column} has shape {rows.shape}, the artifact width {width}: it was fitted on another model")
    return rows.astype(np.float64)
