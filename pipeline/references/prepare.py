"""TOSS's two reference models: trained here on the job's reference sets, or models that the job names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tamis.operators.forward.adapters import Adapters
from tamis.operators.model.architecture import describe_model, plan_full, read_config
from tamis.operators.tokens.tokenised import Tokenised
from tamis.operators.tokens.tokenizer import ChatTokenizer
from tamis.pipeline.capture.token_losses import ADAPTER_FILES, ReferenceModel
from tamis.pipeline.cluster.pools import Pool
from tamis.pipeline.errors import ConfigError, InputError, error_text
from tamis.pipeline.inputs.shards import Shard
from tamis.pipeline.models.checks import unusable
from tamis.pipeline.models.fetch import ModelSource, chat_template, fetch, identity
from tamis.pipeline.models.folders import copy_here
from tamis.pipeline.models.render_process import BoundedRenderer
from tamis.pipeline.planning.plan import Plan
from tamis.pipeline.planning.reference_sets import reference_rows, training_role
from tamis.pipeline.references.training import TRAINING, reference_key, train_reference
from tamis.pipeline.run import folder as run_folder
from tamis.pipeline.run.paths import REFERENCES
from tamis.pipeline.storage.store import Sealed, Store

TOKENISATION = "tokenizer and template"
"""A key of the fingerprint, and of training.json."""

CURVE_POINTS = 200
"""The most points of a training curve in manifest and report."""


@dataclass(frozen=True)
class Prepared:
    """A reference model that is ready for scoring. key: digest of everything that its losses depend on. facts: for the
    artifact and the report."""

    reference: ReferenceModel
    key: str
    facts: dict[str, Any]
    files: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ReferenceModels:
    """Prepares the reference models of one run, one at a time."""

    plan: Plan
    store: Store
    pool: Pool
    _rows: dict[str, list[Tokenised]] = field(default_factory=dict)

    @property
    def base_keys(self) -> dict[str, Any]:
        """The part of the run's fingerprint that a trained model depends on, besides its recipe and its rows."""
        names = ("model", TOKENISATION, "model.dtype", "model.device", "max_tokens", "overlong")
        return {name: self.plan.fingerprint[name] for name in names}

    def rows(self, role: str) -> list[Tokenised]:
        """The usable rows of the reference set `role`, tokenised like the corpus. InputError if there are none."""
        if role not in self._rows:
            plan = self.plan
            outcomes = reference_rows(self._shards(role), plan.tokenizer, plan.max_tokens, plan.job)
            self._rows[role] = [outcome for _, outcome in outcomes if isinstance(outcome, Tokenised)]
        if not self._rows[role]:
            raise InputError(f"the {role} references hold no rows; name a file with some")
        return self._rows[role]

    def _shards(self, role: str) -> list[Shard]:
        wanted = training_role(self.plan.job, role)
        return [shard for shard in self.plan.reference_shards if shard.role == wanted]

    def prepare(self, role: str) -> Prepared:
        """The model `role` (utility or harmful), trained or adopted, as the job says."""
        given = self.plan.job.models_of(self.plan.job.method[0]).get(role)
        return self._adopt(role, given) if given is not None else self.train(role, role, self.rows(role))

    def train(self, role: str, name: str, rows: Sequence[Tokenised]) -> Prepared:
        """Train on `rows`, unless that was done before. name: of its folder in the artifact."""
        plan, job = self.plan, self.plan.job
        key = reference_key(run_folder.key_of(self.base_keys), job.masking.training, rows)
        notes = {TOKENISATION: plan.fingerprint[TOKENISATION]}
        facts = train_reference(
            self.store, name, key, plan.model, job.model, job.masking.training, rows, self.pool, job.worker_timeout,
            notes=notes, patience=job.cluster_patience,
        )  # fmt: skip
        files = facts.pop("files")
        facts.pop("seconds")  # a resumed run must give the same artifact as an uninterrupted one
        source = ", ".join(dict.fromkeys(shard.file.name for shard in self._shards(role)))
        # Epochs so far, as a fraction: steps cannot be compared between sets of different sizes.
        curve = [
            {**point, "epoch": point["step"] * facts["recipe"]["epochs"] / facts["steps"]}
            for point in thinned(facts["curve"])
        ]
        shown = {"name": name, "how": "trained", "source": source, **facts, "curve": curve}
        return Prepared(ReferenceModel(adapter=_adapter_of(files)), key, shown, files)

    def _adopt(self, role: str, given: str) -> Prepared:
        """A model that the job names: an adapter is copied into the artifact, a full model is loaded by the workers."""
        unknown = dict.fromkeys(("rows", "response_tokens", "steps"))
        facts: dict[str, Any] = {"name": role, "how": "given", "source": given, **unknown, "curve": []}
        folder = _folder(self.plan, given)
        if _is_adapter(folder):
            stored = f"{REFERENCES}/{role}"
            files = [self.store.write(f"{stored}/{name}", _bytes(folder / name)).to_dict() for name in ADAPTER_FILES]
            return Prepared(ReferenceModel(adapter=_adapter_of(files)), identity(str(folder)), facts, files)
        source = _full_model(self.plan, role, given)
        local = source.revision == "local"
        key = identity(source.path) if local else f"{given}@{source.revision}"
        return Prepared(ReferenceModel(model=source.path if local else given,
                                  revision=None if local else source.revision), key, facts)  # fmt: skip


def _adapter_of(files: Sequence[Mapping[str, Any]]) -> tuple[Sealed, ...]:
    """The adapter's own files among all files that were written for it."""
    wanted = [file for file in files if file["name"].rpartition("/")[2] in ADAPTER_FILES]
    return tuple(Sealed(file["name"], file["sha256"]) for file in wanted)


def thinned(curve: Sequence[Any]) -> list[Any]:
    """At most CURVE_POINTS evenly spaced points, plus the last one; training.json has all points."""
    every = -(-len(curve) // CURVE_POINTS) or 1
    rest = [] if not curve or (len(curve) - 1) % every == 0 else [curve[-1]]
    return [*curve[::every], *rest]


def check_given(plan: Plan) -> None:
    """ConfigError if a reference model that the job names cannot be used, before anything is trained."""
    named = plan.job.models_of(plan.job.method[0])
    for role, given in named.items():
        folder = _folder(plan, given)
        _check_tokenizer(plan, role, given, folder)
        if _is_adapter(folder):
            _check_adapter(plan, role, folder)
        else:
            _check_full_model(plan, role, given)


def _folder(plan: Plan, given: str) -> Path:
    """The local folder with the small files of the given model and, if it is an adapter, its weights."""
    if "://" not in given:
        return Path(given)
    wanted = ("*.json", "*.jinja", "*.model", "*.txt", ADAPTER_FILES[1])
    return Path(copy_here(given, plan.job.storage_options, wanted)[0])


def _is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ADAPTER_FILES)


def _check_adapter(plan: Plan, role: str, folder: Path) -> None:
    for name in ADAPTER_FILES:
        _bytes(folder / name)
    remote = plan.job.model.trust_remote_code
    try:
        whole = plan_full(read_config(plan.model.path, revision=None, trust_remote_code=remote))
        with torch.device("meta"):
            model = whole.model_class(whole.config)
        # Base weights that lie beside those of the adapter cannot be compared here; the workers compare them.
        with suppress(NotImplementedError):
            Adapters(model, {role: str(folder)})
    except ValueError as error:
        raise ConfigError(f"toss.{role}_model: {error}") from None


def _check_full_model(plan: Plan, role: str, given: str) -> None:
    remote = plan.job.model.trust_remote_code
    source = _full_model(plan, role, given)
    try:
        info = describe_model(source.path, trust_remote_code=remote)
    except Exception as error:
        raise unusable(f"toss.{role}_model: {given}", error) from None
    if info.vocabulary < plan.model_info.vocabulary:
        raise ConfigError(
            f"toss.{role}_model: {given} has an embedding of {info.vocabulary:,} rows, the job's model one of "
            f"{plan.model_info.vocabulary:,}; a reference model is fine-tuned from the job's model"
        )


def _full_model(plan: Plan, role: str, given: str) -> ModelSource:
    try:
        remote, options = plan.job.model.trust_remote_code, plan.job.storage_options
        return fetch(given, None, weights=False, remote_code=remote, options=options)
    except ConfigError as error:
        raise ConfigError(str(error).replace("model.name:", f"toss.{role}_model:", 1)) from None


def _check_tokenizer(plan: Plan, role: str, given: str, folder: Path) -> None:
    """ConfigError if a given model has a tokenizer that is not the job's: its losses would be for other tokens. For a
    model that tamis has trained, training.json tells.
    """
    template = chat_template(plan.job.model.template, plan.job.storage_options)
    told = _read_json(folder / TRAINING).get(TOKENISATION)
    if told is None and (folder / "tokenizer.json").is_file():
        try:
            told = ChatTokenizer.load(str(folder), template=template, renderer=BoundedRenderer).fingerprint
        except Exception:  # an unusable tokenizer is not needed and proves nothing
            told = None
    if told is not None and told != plan.fingerprint[TOKENISATION]:
        raise ConfigError(
            f"toss.{role}_model: {given} was trained with another tokenizer or chat template than the job's; its "
            "losses would be of other tokens. Train it anew (leave the setting out), or set model.template"
        )


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error_text(error)}); an adapter is {' and '.join(ADAPTER_FILES)}"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
