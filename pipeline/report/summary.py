"""The report data: one JSON-serialisable dict, written by the pipeline, from which page and dataset card are drawn.

Counts are rows. Any score or other float may be None (not known); lists and mappings may be empty. Rows are 0-based.
The job is shown in full: the code that makes the summary must leave out credentials.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict


class InputFile(TypedDict):
    """dialect: for people. columns: the same as `Dialect.from_dict` reads it. url, identity, partition: see
    `SourceFile`. sha256: of its bytes, in a run of a schedule."""

    path: str
    url: NotRequired[str]
    identity: NotRequired[str]
    sha256: NotRequired[str]
    partition: NotRequired[str]
    dialect: str
    columns: NotRequired[dict[str, Any]]
    rows: int
    bytes: int
    format: str


class Input(TypedDict):
    files: list[InputFile]
    rows: int
    bytes: int


class Model(TypedDict):
    name: str
    revision: str | None
    architecture: str
    blocks: int
    width: int
    dtype: str
    device: str


class Counts(TypedDict):
    """rows_in = kept + dropped + quarantined; truncated rows are among the kept and dropped ones."""

    rows_in: int
    kept: int
    dropped: int
    quarantined: int
    truncated: int


class QuarantineCode(TypedDict):
    rows: int
    message: str


class MethodRun(TypedDict):
    """title: for people. reading: how to read the score. distribution: "name version" of the distribution that offers
    the method, if it is not part of tamis. layer: the block whose output was read, 0-based. facts: the numbers of the
    fit."""

    name: str
    title: NotRequired[str]
    reading: NotRequired[str]
    distribution: NotRequired[str]
    layer: int | None
    position: str | None
    facts: dict[str, Any]


class Selection(TypedDict):
    """how: in words ("share 0.1"). cut: the score that separates dropped from kept rows, None when there is none.

    at_cut: how many rows have exactly this score (counting only the dropped ones is enough). groups: of rows that have
    cuts of their own, each with group, rows, dropped, cut.
    """

    how: str
    cut: float | None
    requested: Any
    at_cut: int | None
    groups: NotRequired[list[dict[str, Any]]]


class Histogram(TypedDict):
    """n bins of the selecting method's score: n + 1 ascending edges, rows kept and dropped per bin."""

    edges: list[float]
    kept: list[int]
    dropped: list[int]


class Source(TypedDict):
    source: str
    rows: int
    dropped: int


class LengthDecile(TypedDict):
    """low..high: response tokens of all answers of a sample, both ends included."""

    low: int
    high: int
    rows: int
    dropped: int


class Message(TypedDict):
    """length: characters of the whole text, where `content` is only its beginning."""

    role: str
    content: str
    length: NotRequired[int]


class Sample(TypedDict):
    """rank: 1 is the riskiest sample of the corpus. Only the report has the keys that may be missing. scores: by each
    method. places: in each method's order, the share of the rows that are compared that score lower; apart: the
    highest of these minus the lowest. text_digest: of
    the text that is shown, as a sheet of `tamis sample` has it. own_source: what the row's column `source` says."""

    sample_id: str
    source: str
    row: int
    score: float | None
    rank: int | None
    n_response_tokens: int | None
    messages: list[Message]
    decision: NotRequired[Literal["kept", "dropped"]]
    scores: NotRequired[dict[str, float]]
    places: NotRequired[dict[str, float]]
    apart: NotRequired[float | None]
    text_digest: NotRequired[str]
    own_source: NotRequired[str | None]


class Browse(TypedDict):
    """Samples that are drawn for the report (pipeline/emit/browse.py). rows: of the shards that they are drawn from.
    methods: the columns of scores/. unlike: the methods rank them most unlike each other. histograms: of the methods
    that did not decide, over those rows."""

    rows: int
    methods: list[str]
    random_kept: list[Sample]
    random_dropped: list[Sample]
    unlike: list[Sample]
    histograms: dict[str, Histogram]


class Timing(TypedDict):
    seconds: float | None
    rows_per_second: NotRequired[float | None]
    tokens_per_second: NotRequired[float | None]


class Run(TypedDict):
    """What is said of any run. created is ISO 8601; timings maps the stages, in order, to their cost. json_columns: the
    places in kept/ that are JSON text of Arrow's json type. unscored: rows of kept/ of which a model learns nothing.
    night: of a schedule, which files were new and why (docs/nights.md).
    """

    title: str
    created: str
    tamis_version: str
    job: dict[str, Any]
    fingerprint: dict[str, Any]
    versions: dict[str, str]
    input: Input
    model: Model
    counts: Counts
    quarantine_codes: dict[str, QuarantineCode]
    unscored: int
    timings: dict[str, Timing]
    warnings: list[str]
    json_columns: NotRequired[list[str]]
    night: NotRequired[dict[str, Any]]


class ThenAndNow(TypedDict):
    """then: of the corpus that the artifact was made on."""

    then: int
    now: int


class DriftFigure(TypedDict):
    """psi: operators/statistics/drift.py. by_chance: what it may be without any drift. then, now: rows of each bin;
    bins: their edges, or their names."""

    name: str
    psi: float
    by_chance: float
    then: list[int]
    now: list[int]
    bins: list[float] | list[str]


class Drift(TypedDict):
    """Of a run with `artifact:`. exceeded: the names of the figures above the limit. fell: rows beyond the cut."""

    artifact: str
    limit: float | None
    exceeded: list[str]
    rows: ThenAndNow
    scored: ThenAndNow
    fell: ThenAndNow
    majority_allowed: bool
    figures: list[DriftFigure]
    quarantine: dict[str, ThenAndNow]


class Figure(TypedDict):
    """With an interval of 95 %."""

    value: float
    low: float
    high: float


class ReferenceTest(TypedDict):
    """A method on unsafe references that its fit has not seen (pipeline/fit/reference_tests.py), against its safe
    references or rows of the corpus; or only why it is untested. See `Told` in operators/statistics/telling.py."""

    method: str
    untested: NotRequired[str]
    against: NotRequired[Literal["safe", "corpus"]]
    borrowed: NotRequired[str | None]
    folds: NotRequired[int]
    unsafe: NotRequired[int]
    others: NotRequired[int]
    auroc: NotRequired[Figure]
    length: NotRequired[Figure]
    longer: NotRequired[bool]
    better_by: NotRequired[Figure]
    equal_length: NotRequired[Figure | None]
    equal_pairs: NotRequired[int]
    spearman: NotRequired[float | None]
    partial_spearman: NotRequired[float | None]
    of_artifact: NotRequired[bool]


class Trust(TypedDict):
    """The test of the filter. agreement: see pipeline/fit/score_agreement.py; None where shards are missing. refusing:
    rows of kept and dropped whose answer refuses; None where an earlier tamis wrote some of them. demonstrations: those
    whose request looks harmful, or why they are not told (pipeline/fit/demonstrations.py). drift: limit and
    exceeded, of a run with `artifact:`. verdict: its words, and the reasons (verdict.py)."""

    tests: list[ReferenceTest]
    agreement: dict[str, Any] | None
    refusing: dict[str, int] | None
    demonstrations: NotRequired[dict[str, Any]]
    drift: NotRequired[dict[str, Any]]
    verdict: dict[str, Any]


class Summary(Run):
    """A run that drops samples. layers: the content of artifact/layers.json, if it exists and LARF has run. drift: if
    the job named an artifact. parent: the run that it was made of (`Parent.facts`; reused: its scores after `tamis
    select`, its vectors after `tamis curate --from`). trust: of every run since it is tested. own_sources: shares by
    the corpus's own column `source`; None where it has none. browse: only for the report."""

    methods: list[MethodRun]
    selected_by: str
    selection: Selection
    histogram: Histogram
    sources: list[Source]
    own_sources: NotRequired[list[Source] | None]
    length_deciles: list[LengthDecile]
    score_length_spearman: float | None
    riskiest: list[Sample]
    borderline_dropped: list[Sample]
    borderline_kept: list[Sample]
    layers: NotRequired[dict[str, Any]]
    drift: NotRequired[Drift]
    parent: NotRequired[dict[str, Any]]
    trust: NotRequired[Trust]
    browse: NotRequired[Browse]


class Tokens(TypedDict):
    """scope: whether `requested` is a share of all tokens or of each sample's tokens. cut: the risk that separates
    discarded from kept tokens.

    at_cut: how many tokens have exactly this risk.
    """

    response: int
    discarded: int
    requested: float
    scope: Literal["global", "sample"]
    cut: float | None
    at_cut: int


class TrainingStep(TypedDict):
    step: int
    epoch: float
    loss: float
    gradient_norm: float | None


class Reference(TypedDict):
    """name: utility, harmful, or harmful-1, ... for the rounds. source: the file, as shown to people."""

    name: str
    how: Literal["trained", "given"]
    source: str
    rows: int | None
    response_tokens: int | None
    steps: int | None
    curve: list[TrainingStep]


class RiskHistogram(TypedDict):
    """n bins of the risk: n + 1 ascending edges, tokens kept and discarded per bin."""

    edges: list[float]
    kept: list[int]
    discarded: list[int]


class PlaceInAnswer(TypedDict):
    """low..high: 0-based positions of tokens in their answers, both ends included."""

    low: int
    high: int
    tokens: int
    mean_risk: float | None
    discarded: int


class SampleShares(TypedDict):
    rows: list[int]
    none: int
    all: int


"""rows: samples by share of response tokens discarded, (0, 0.05] to (0.95, 1]; none and all: 0 and exactly 1."""


class TokenString(TypedDict):
    token: str
    id: int
    tokens: int
    discarded: int


class TokenSource(TypedDict):
    source: str
    rows: int
    dropped: int
    tokens: int
    discarded: int


class Round(TypedDict):
    """added: samples that the round moved into the harmful set. overlap: of the round's mask with the final one."""

    round: int
    added: int
    harmful_rows: int
    mean_risk: float | None
    cut: float | None
    overlap: float | None


class Piece(TypedDict):
    """One token's text; risk is None for prompt tokens."""

    text: str
    risk: float | None
    discarded: bool


class Example(TypedDict):
    """A sample's tokens in order. group: most of it is discarded, a part of it, or its tokens lie at the border of the
    cut."""

    sample_id: str
    source: str
    row: int
    shard: str
    decision: Literal["kept", "dropped"]
    n_response_tokens: int
    discarded: int
    group: Literal["most", "part", "border"]
    pieces: list[Piece]


class TokenSummary(Run):
    """A run that masks tokens. rounds: empty for toss. examples: only for the page; the card's summary may lack
    them."""

    kind: Literal["tokens"]
    method: Literal["toss", "toss-pro"]
    tokens: Tokens
    references: list[Reference]
    risk_histogram: RiskHistogram
    positions: list[PlaceInAnswer]
    sample_shares: SampleShares
    token_strings: list[TokenString]
    sources: list[TokenSource]
    rounds: list[Round]
    examples: NotRequired[list[Example]]
