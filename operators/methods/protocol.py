"""What a method is: what to capture, how to fit a small artifact by one reduce, how to score with it.

A method is a frozen dataclass that derives from `Method`. It says everything about itself: its name and title, its
settings (the fields; `setting` gives each a default, a help text and limits), its reference sets, and how its score is
read. The job file's section, `tamis schema`, the plan, the fingerprint and the report follow from that.

It never sees Ray: `fit` gets a `Reduce` handle, which runs in process in a test and as a tree of tasks in production,
over one and the same tree.
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
"""One shard's captured vectors: Request.column -> float32 (n, d); rows with problems are already removed, n
may be 0.
"""

CORPUS = "corpus"


@dataclass(frozen=True, eq=False)
class Artifact:
    """All that is needed to score new data the same way.

    arrays: float32 or float64. facts: JSON-able numbers for the manifest and the report. A method that reads one vector
    of a sample writes "layer" (0-based: the output of that block), "position" and "columns" (the Request.column names
    that `score` reads).
    """

    arrays: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any] = field(default_factory=dict)


class Reduce(Protocol):
    """map every shard of a source, then combine the results pairwise over the fixed tree of `tree_reduce`.

    Raises ValueError for a source that does not exist or has no shards.
    """

    def __call__(self, map: Callable[[Features], T], combine: Callable[[T, T], T], source: str = CORPUS) -> T: ...


def setting(default: Any, help: str, *, in_job: bool = True, **limits: Any) -> Any:
    """A field of a method that a job may set. help: one sentence or two for people.

    default: a list stands for a new list each time. limits: ge, gt, le, lt of a number, pattern of a text, as pydantic
    has them. in_job: False for what only code sets.
    """
    metadata = {"help": help, "in_job": in_job, "limits": limits}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class Method(ABC):
    """One way to score samples, to derive from. Settings are the fields of the frozen dataclass; invalid ones raise
    ValueError when made.

    name: in job files, columns and file names: lower case letters, digits, underscores. title: for people. about: one
    sentence, the help text of the section. references: name -> help text of each reference set that is needed beside
    the corpus; a job names its file as NAME_references. finds_block: its block may be left to the layer search.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    about: ClassVar[str]
    references: ClassVar[Mapping[str, str]] = {}
    finds_block: ClassVar[bool] = False

    @classmethod
    def sources(cls) -> tuple[str, ...]:
        """The names of the reference sets."""
        return tuple(cls.references)

    @classmethod
    def explain(cls, facts: Mapping[str, Any]) -> str:
        """How to read a score, in a few sentences. facts: the settings, and of the artifact's facts what is known."""
        return f"{cls.title}: {cls.about}"

    @abstractmethod
    def requests(self, blocks: int) -> tuple[Request, ...]:
        """What to capture from a model of so many blocks. ValueError when a layer does not exist."""

    def check(self, width: int) -> None:
        """ValueError if the settings do not go with vectors of `width` dimensions."""
        return

    @abstractmethod
    def fit(self, reduce: Reduce, blocks: int) -> Artifact:
        """The global statistics. ValueError when the data cannot support them."""

    @abstractmethod
    def score(self, artifact: Artifact, features: Features) -> npt.NDArray[np.float32]:
        """float32 (n,), higher = riskier. ValueError when the vectors do not fit the artifact."""

    def warnings(self, artifact: Artifact, dropped_share: float) -> list[str]:
        """What a person should know before trusting a cut that drops this share, in sentences with
        numbers.
        """
        return []


def tree_reduce(parts: Iterable[T], combine: Callable[[T, T], T]) -> T:
    """Combine adjacent pairs, then pairs of pairs, and so on; an odd one out waits for the next level.

    The tree depends on the number of parts alone, so a result is the same to the bit whoever computes it; 2^j
    adjacent parts from a multiple of 2^j on form a subtree, which may be computed by itself. Reads `parts`
    once and holds at most log2(n) + 1 results. Raises ValueError when there are no parts.
    """
    # A binary counter: the stack holds complete subtrees of falling size.
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
    """The block to read: `default` for "auto". Raises ValueError when the model has no such block."""
    block = default if layer == "auto" else layer
    if block >= blocks:
        raise ValueError(f"{method}.layer={block}: the model has blocks 0 to {blocks - 1}")
    return block


def vectors_for(artifact: Artifact, features: Features, width: int) -> npt.NDArray[np.float64]:
    """float64 (n, d): the one column that `artifact` was fitted on. ValueError if it is missing or of another
    width.
    """
    (column,) = artifact.facts["columns"]
    if column not in features:
        raise ValueError(f"the artifact needs {column}; captured were {sorted(features)}")
    rows = features[column]
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"{column} has shape {rows.shape}, the artifact width {width}: it was fitted on another model")
    return rows.astype(np.float64)
