"""What `tamis curate --from` takes of a finished run instead of a plan: its job with other methods, and which of its
captures these read.

Everything that decides what was captured stays as the run had it: the input, the model, how a row is rendered. A
setting of these that is given all the same must be that of the run. A reference set is known by its content, so one
method may use what was captured for another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tamis.operators.methods import Csa, Larf, Method
from tamis.operators.methods.protocol import CORPUS
from tamis.operators.requests import Request
from tamis.pipeline.errors import ConfigError
from tamis.pipeline.inputs.files import SourceFile
from tamis.pipeline.inputs.shards import role_of
from tamis.pipeline.job.job_file import Job, load_job
from tamis.pipeline.job.methods import distributions, known, sections
from tamis.pipeline.models import keys as model_keys
from tamis.pipeline.planning.corpus_sample import sizes
from tamis.pipeline.planning.fingerprint import (
    FINGERPRINT_FORMAT,
    FORM_KEYS,
    NO_MATTER,
    form_keys_of,
    reference_digest,
    selection_keys_of,
    settings_of,
)
from tamis.pipeline.planning.plan import BYTES_OF_A_NUMBER, list_inputs, methods_of, place_of
from tamis.pipeline.planning.reference_sets import scan_set
from tamis.pipeline.planning.scanning import scanned_or_broken
from tamis.pipeline.run.folder import VECTORS_OF
from tamis.pipeline.run.parent import Parent

_RULES = ("drop", "drop_count", "threshold")
_NOT_HERE = {
    "artifact": "it applies what another run has fitted, and --from fits anew",
    "schedule": "it curates new files every night, and --from the rows of one run",
    "lineage": "--from sends no events",
}
_FREE = (NO_MATTER - _NOT_HERE.keys()) | FORM_KEYS | {"output", "method", "selection", "seed", "storage_options"}
"""Keys of the job file that do not decide what was captured."""
_OF_ROWS = ("format", "input", "model", "tokenizer and template", "max_tokens", "overlong", "input.join")
_OF_SEARCH = ("search format", "fisher format", "larf.over_rejection_prompts", "larf.refusal_markers")
"""Keys of a fingerprint, besides `model.*`: of the captured rows, and of the search for LARF's block."""
_BY_POSITION = {
    "prompt_cut": "last_prompt_token",
    "no_prompt_token": "last_prompt_token",
    "no_response_token": "response_mean",
}
_BY_BLOCK = ("non_finite", "forward_failed")
"""Codes of rows that have no vectors: because of a position that is read, or perhaps because of a block."""


class Read(NamedTuple):
    """A vector that a method reads. there: whether the run has captured it. request: None where the block is found
    with the model."""

    method: str
    request: Request | None
    there: bool


@dataclass(frozen=True, eq=False)
class Refitting:
    """job, methods: as they will run. roles: of each reference set that they need, the role under which it was
    captured. searched: whether the run's search for LARF's block is theirs, too. notes: what differs from a fresh
    run."""

    job: Job
    methods: Mapping[str, Method]
    roles: Mapping[str, str]
    searched: bool
    notes: tuple[str, ...] = ()


def refitting_of(
    parent: Parent,
    given: Mapping[str, Any],
    captured: Collection[Request],
    sets: Mapping[str, Mapping[str, int]],
) -> Refitting:
    """The run's job with what is given. captured: what it has captured of every row. sets: for CORPUS and the role of
    each reference set, how many of its rows have no vectors, by code. ConfigError, in one line, for what these captures
    do not allow; InputError for references or input that cannot be read."""
    if parent.manifest["fingerprint"].get("format") != FINGERPRINT_FORMAT:
        raise ConfigError(
            f"--from: {parent.store.path()} was captured by another version of tamis, which gives other numbers; run "
            "its job again in a new output folder"
        )
    for key, why in _NOT_HERE.items():
        if given.get(key) is not None:
            raise ConfigError(f"{key}: {why}; leave {key} or --from out")
    job = _job_of(parent, given)
    _refuse_other_captures(parent, given, job)
    masking = [name for name in job.method if known()[name].kind.masks_tokens]
    if masking:
        raise ConfigError(
            f"--from: {masking[0]} masks tokens by the losses of models that it trains; no vectors serve it. Run it "
            "without --from"
        )
    if Csa.name in job.method and job.of(Csa.name).models:
        raise ConfigError(
            "--from: csa.models reads further models, and of these no run keeps vectors; set csa.models to [] for the "
            "score of the run's own model, or curate anew without --from"
        )
    roles = {
        role_of(name, source): _captured_as(parent, job, given, name, source, sets)
        for name in job.method
        for source in known()[name].kind.references
    }
    methods = methods_of(job)
    searched = False
    if (larf := methods.get("larf")) is not None and isinstance(larf, Larf) and isinstance(larf.layer, str):
        methods["larf"], searched = _found_block(parent, job, larf, roles, captured), True
    for name, method in methods.items():
        _check_captured(parent, name, method, captured)
        _check_sample(parent, name, method)
    reads = {request for method in methods.values() for request in method.requests(_blocks(parent))}
    notes = _set_aside(parent, reads, captured, [sets[role] for role in {CORPUS, *roles.values()}])
    return Refitting(job, methods, roles, searched, (*notes, *_sample_notes(parent, methods, len(reads))))


def reads_of(parent: Parent, methods: Mapping[str, Method], captured: Collection[Request]) -> list[Read]:
    """What these methods read of each row. ConfigError if the model has no such block."""
    found = []
    for name, method in methods.items():
        if isinstance(method, Larf) and isinstance(method.layer, str):
            found.append(Read(name, None, False))
            continue
        try:
            requests = method.requests(_blocks(parent))
        except ValueError as error:
            raise _named_after(name, error) from None
        found += [Read(name, request, request in captured) for request in requests]
    return found


def methods_given(parent: Parent, given: Mapping[str, Any]) -> dict[str, Method]:
    """The methods of the run's job with what is given, whether or not its captures allow them. ConfigError for settings
    that no job may have."""
    return methods_of(_job_of(parent, given))


def settings_like_fresh(parent: Parent, wanted: Refitting) -> dict[str, Any]:
    """The fingerprint that a fresh run of this job would have."""
    theirs, job = parent.manifest["fingerprint"], wanted.job
    kept = {key: value for key, value in theirs.items() if key in _OF_ROWS or key.startswith("model.")}
    of_search = {key: theirs[key] for key in _OF_SEARCH if wanted.searched and key in theirs}
    return {
        **kept,
        **{f"references.{role}": theirs[f"references.{captured}"] for role, captured in wanted.roles.items()},
        "method": job.method,
        **settings_of(job),
        **{f"{name} distribution": source for name, source in distributions(job.method).items()},
        **of_search,
        **form_keys_of(job),
        **selection_keys_of(job),
    }


def reads_the_same(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same rows, references and model, each by its content."""
    keys = {*_OF_ROWS, *(key for key in {**ours, **theirs} if key.startswith("references."))}
    return all(ours.get(key) == theirs.get(key) for key in keys)


def fingerprint_of(parent: Parent, wanted: Refitting, captures: str) -> dict[str, Any]:
    """The same, tied to these captures. captures: their digest."""
    return {**settings_like_fresh(parent, wanted), VECTORS_OF: captures}


def job_of_run(parent: Parent, methods: Sequence[str]) -> Job:
    """The run's job with these methods, and no rule of selection."""
    return load_job(None, {**_settings_of(parent), "method": list(methods), "selection": {}})


# --- the job ------------------------------------------------------------------------------------------------------


def _job_of(parent: Parent, given: Mapping[str, Any]) -> Job:
    tree = _settings_of(parent)
    for key, value in given.items():
        before = tree.get(key)
        tree[key] = {**before, **value} if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    if given.get("output") is None:
        raise ConfigError("--from: --output is missing; name a new folder for what is made of the run")
    tree |= {"keep_captures": "none", "selection": _selection_of(parent, given.get("selection") or {})}
    return load_job(None, tree)


def _settings_of(parent: Parent) -> dict[str, Any]:
    """Those of the run that a job may have here; without the sections of methods that are not installed any more."""
    known_keys = {*Job.model_fields, *sections()}
    theirs = {key: value for key, value in parent.manifest["job"].items() if key in known_keys}
    return {**theirs, **dict.fromkeys(_NOT_HERE), "keep_captures": "none"}


def _selection_of(parent: Parent, given: Any) -> Any:
    """The rule of the run where none is given, and nothing else of its selection."""
    if not isinstance(given, Mapping) or any(given.get(rule) is not None for rule in _RULES):
        return given
    theirs = parent.manifest["job"]["selection"]
    if parent.manifest.get("drift") is not None or theirs.get("threshold") is not None:
        raise ConfigError(
            f"--from: {parent.store.path()} was cut at a score of {parent.manifest['selected_by']}, which says nothing "
            f"about other scores; add --drop or --drop-count (there {parent.manifest['counts']['dropped']} rows fell)"
        )
    rule = {name: theirs.get(name) for name in (*_RULES, "allow_majority") if theirs.get(name) is not None}
    return {**rule, **{key: value for key, value in given.items() if value is not None}}


def _refuse_other_captures(parent: Parent, given: Mapping[str, Any], job: Job) -> None:
    differing = list(_differences(parent, given, job, job_of_run(parent, job.method)))
    if differing:
        raise ConfigError(
            f"--from: the vectors of {parent.store.path()} were captured with other settings: {'; '.join(differing)}; "
            "leave these out, or curate anew without --from"
        )
    if isinstance(given.get("input"), Mapping) and "path" in given["input"]:
        _check_input(parent, job)


def _differences(parent: Parent, given: Mapping[str, Any], job: Job, before: Job) -> Iterator[str]:
    for key, value in given.items():
        if key in _FREE or key in sections():
            continue
        inner = [f"{key}.{name}" for name in value] if isinstance(value, Mapping) else [key]
        for dotted in inner:
            ours, theirs = _at(job, dotted), _at(before, dotted)
            if ours != theirs and not _same(parent, dotted, ours, theirs):
                yield f"{dotted}: {theirs!s:.80} there, {ours!s:.80} now"


def _at(job: Job, dotted: str) -> Any:
    value: Any = job
    for name in dotted.split("."):
        value = getattr(value, name)
    return value


def _same(parent: Parent, dotted: str, ours: Any, theirs: Any) -> bool:
    """Whether two values of a setting mean the same captures."""
    if dotted == "input.path":
        return True  # `_check_input` compares the files
    if dotted == "model.name":
        return place_of(ours) == place_of(theirs)
    if dotted == "model.revision":
        return bool(ours == parent.manifest["model"]["revision"])
    if dotted == "max_tokens":
        return bool(ours == parent.manifest["fingerprint"]["max_tokens"])
    section, _, name = dotted.partition(".")
    return section == "model" and name in model_keys.NO_MATTER


def _check_input(parent: Parent, job: Job) -> None:
    """ConfigError if the input that is given is not that of the run, which names one of its files."""
    found = {place_of(file.url): file for file in list_inputs(job).files}
    theirs = {place_of(str(entry["url"])) for entry in parent.manifest["input"]["files"]}
    more = [file for place, file in found.items() if place not in theirs]
    with_rows = [file.name for file in more if _has_rows(file, job)]
    gone = sorted(place.rstrip("/") for place in theirs - found.keys())
    if with_rows or gone:
        what = f"holds {with_rows[0]}, which it has not read" if with_rows else f"lacks {gone[0]}, which it has read"
        raise ConfigError(
            f"--from: the vectors of {parent.store.path()} are of another input: the one that is given {what}; leave "
            "input out, or curate anew without --from"
        )


def _has_rows(file: SourceFile, job: Job) -> bool:
    """Whether a run would read the file; one that is broken counts. A run lists no file without rows."""
    found = scanned_or_broken(file, job.shard_rows, job.storage_options)
    return isinstance(found, str) or found.rows > 0


# --- what is needed of the captures -------------------------------------------------------------------------------


def _check_sample(parent: Parent, name: str, method: Method) -> None:
    """ConfigError for a method that is to be fitted to fewer rows than the corpus has."""
    wanted, rows = method.corpus_sample(), int(parent.manifest["counts"]["rows_in"])
    if wanted is not None and wanted.always and 0 < wanted.rows < rows:
        raise ConfigError(
            f"{name}.sample is {wanted.rows:,}, and --from fits to the kept vectors of all {rows:,} rows; set "
            f"{name}.sample=all"
        )


def _sample_notes(parent: Parent, methods: Mapping[str, Method], reads: int) -> tuple[str, ...]:
    """What a fresh run would fit to rows drawn from the corpus. reads: how many vectors a row the methods read."""
    rows, width = int(parent.manifest["counts"]["rows_in"]), int(parent.manifest["model"]["width"])
    drawn = sizes(methods, rows, rows * reads * width * BYTES_OF_A_NUMBER, "none")
    return tuple(
        f"{name} is fitted to all {rows:,} rows; a fresh run that keeps no vectors would draw {count:,} of them "
        f"({name}.sample), and its scores would differ a little"
        for name, count in drawn.items()
    )


def _captured_as(
    parent: Parent, job: Job, given: Mapping[str, Any], name: str, source: str, sets: Collection[str]
) -> str:
    """The role under which the references of a method were captured, known by their content."""
    role, key = role_of(name, source), f"{source}_references"
    theirs = parent.manifest["fingerprint"]
    section = known()[name].kind.section_name()
    known_sets = sorted(each for each in sets if f"references.{each}" in theirs)
    there = {each: str(theirs[f"references.{each}"]) for each in known_sets}
    if role in there and key not in (given.get(section) or {}):
        return role
    path = getattr(job.of(name), key)
    digest = reference_digest([scanned.file for scanned in scan_set(role, path, job)], job.storage_options)
    same = [each for each in (role, *there) if there.get(each) == digest]
    if same:
        return same[0]
    ours = f"{path}, as it is now," if path is not None else "the set of tamis"
    named = [f"{each} ({_named(parent, each)})" for each in there]
    raise ConfigError(
        f"{section}.{key}: {parent.store.path()} has captured no references like {ours}; "
        + (f"it has {', '.join(named)}: name the file of one of these" if named else "it has captured no references")
        + f", or run a job with {name} in method and keep_captures: vectors"
    )


def _named(parent: Parent, role: str) -> str:
    section, _, source = role.partition(".")
    path = (parent.manifest["job"].get(section) or {}).get(f"{source}_references")
    return "the set of tamis" if path is None else str(path)


def _found_block(parent: Parent, job: Job, larf: Larf, roles: Mapping[str, str], captured: Collection[Request]) -> Larf:
    """LARF with the block that the run has found in the same way. ConfigError if it has not."""
    theirs, found = parent.manifest["fingerprint"], parent.frozen.artifacts.get("larf")
    section = parent.manifest["job"].get("larf") or {}
    ours = job.of("larf")
    settings = ("layer", "over_rejection_prompts", "refusal_markers")
    of_larf = [(role, captured_as) for role, captured_as in roles.items() if role.startswith("larf.")]
    alike = all(section.get(key) == getattr(ours, key) for key in settings) and all(
        theirs[f"references.{captured_as}"] == theirs.get(f"references.{role}") for role, captured_as in of_larf
    )
    if found is None or not alike or not isinstance(found.facts.get("layer"), int):
        raise ConfigError(
            f"larf.layer: {larf.layer} is found with the model, which --from does not open; set larf.layer to a block "
            f"that was captured: {', '.join(str(block) for block in sorted({each.block for each in captured}))}"
        )
    return replace(larf, layer=found.facts["layer"], layer_chosen=found.facts["layer_chosen"])


def _check_captured(parent: Parent, name: str, method: Method, captured: Collection[Request]) -> None:
    """ConfigError that names what a method reads and the run has not captured."""
    try:
        wanted = method.requests(_blocks(parent))
        method.check(int(parent.manifest["model"]["width"]))
    except ValueError as error:
        raise _named_after(name, error) from None
    missing = [request for request in wanted if request not in captured]
    if missing:
        settings = " and ".join(f"{name}.{key}" for key in ("layer", "blocks", "position") if hasattr(method, key))
        raise ConfigError(
            f"--from: {name} reads {_in_words(missing)}, and {parent.store.path()} has captured "
            f"{_in_words(sorted(captured))}; set {settings or f'other settings of {name}'} to what was captured, or "
            f"run a job with {name} in method and keep_captures: vectors"
        )


def _named_after(method: str, error: ValueError) -> ConfigError:
    said = str(error)
    return ConfigError(said if said.startswith(method) else f"{method}: {said}")


def _set_aside(
    parent: Parent, reads: set[Request], captured: Collection[Request], codes: Sequence[Mapping[str, int]]
) -> tuple[str, ...]:
    """What to say of rows that have no vectors because of what the run has read of them. ConfigError where a run that
    reads this alone would have scored them."""
    rows = sum((Counter(each) for each in codes), Counter[str]())
    positions = {request.position for request in reads}
    lost = [code for code, position in _BY_POSITION.items() if rows[code] and position not in positions]
    if lost:
        raise ConfigError(
            f"--from: {rows[lost[0]]:,} rows of {parent.store.path()} have no vectors ({lost[0]}) because it has read "
            f"{_BY_POSITION[lost[0]]} of them; a run of these methods would score them: curate anew without --from"
        )
    unsure = [code for code in _BY_BLOCK if rows[code]]
    if not unsure or reads == set(captured):
        return ()
    counts = " and ".join(f"{rows[code]:,} rows are set aside as {code}" for code in unsure)
    return (f"{counts} by the run whose vectors were used, which has read more of them: a fresh run might score them",)


def _blocks(parent: Parent) -> int:
    return int(parent.manifest["model"]["blocks"])


def _in_words(requests: Sequence[Request]) -> str:
    return ", ".join(f"block {request.block} at {request.position}" for request in requests)
