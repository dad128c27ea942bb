"""The known methods: those of tamis, and those that installed distributions offer.

A distribution offers a method by an entry point of the group `tamis.methods`, whose name is the method's:

    [project.entry-points."tamis.methods"]
    norm = "tamis_norm:Norm"

An offer that cannot be used is reported and left out; jobs that do not use it run all the same.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, create_model

from tamis.operators.methods import METHODS, AnyMethod, Method
from tamis.pipeline.errors import error_text
from tamis.pipeline.job.sections import Section, as_list
from tamis.pipeline.terminal.voice import warn_once

GROUP = "tamis.methods"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NUMBERS = (int, float)


@dataclass(frozen=True)
class Known:
    """A method, and the distribution that offers it, as "name version"; None for tamis itself."""

    kind: type[AnyMethod]
    distribution: str | None = None


@functools.cache
def known() -> Mapping[str, Known]:
    """Every method, by name. Reports offers that cannot be used, once."""
    found = {name: Known(kind) for name, kind in METHODS.items()}
    offers = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda offer: (offer.name, offer.value))
    for offer in offers:
        source = "an unknown distribution" if offer.dist is None else f"{offer.dist.name} {offer.dist.version}"
        if complaint := _complaint(offer, found):
            warn_once(f"the method {offer.name} of {source} is left out: {complaint}")
        else:
            found[offer.name] = Known(offer.load(), source)
    return found


def _complaint(offer: importlib.metadata.EntryPoint, found: Mapping[str, Known]) -> str | None:
    """Why the offer is not a method that a job can use; None if it is."""
    try:
        kind: Any = offer.load()
        if not _is_method(kind):
            return f"{offer.value} is no dataclass that derives from tamis.operators.methods.Method"
        if kind.name != offer.name:
            return f"it calls itself {kind.name}"
        if not _NAME.fullmatch(offer.name):
            return "a name is of lower case letters, digits and underscores"
        if offer.name in found:
            return "another method has this name"
        if kind.block_search is not Method.block_search:
            return "block_search is for LARF alone, whose block the search looks for"
        if kind.models or kind.masks_tokens or kind.section_name() != kind.name:
            return "models, masks_tokens and section are for TOSS alone; a method of a distribution scores samples"
        section_of(kind)
        kind()
    except Exception as error:  # another distribution's module may raise anything when it is imported
        return f"{type(error).__name__}: {error_text(error)}"
    return None


def _is_method(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and dataclasses.is_dataclass(value)


def distributions(names: list[str]) -> dict[str, str]:
    """Name -> "distribution version", for those of these methods that do not come with tamis."""
    found = {name: known()[name].distribution for name in names if name in known()}
    return {name: source for name, source in found.items() if source is not None}


def sections() -> dict[str, type[Section]]:
    """Name -> section of the job file, for the settings of all known methods."""
    kinds: dict[str, list[type[AnyMethod]]] = {}
    for item in known().values():
        kinds.setdefault(item.kind.section_name(), []).append(item.kind)
    return {name: section_of(*sharing) for name, sharing in kinds.items()}


@functools.cache
def section_of(*kinds: type[AnyMethod]) -> type[Section]:
    """The section of the job file for the settings of a method, or of several that share one, with a key for the file
    of each reference set and for each reference model."""
    keys: dict[str, Any] = {}
    for kind in kinds:
        keys |= _keys_of(kind)
    for kind in kinds:
        texts = {f"{name}_references": about for name, about in kind.references.items()}
        texts |= {f"{name}_model": about for name, about in kind.models.items()}
        keys |= {name: (str | None, Field(None, description=about)) for name, about in texts.items()}
    return _section(kinds[0], f"{kinds[0].title}: {kinds[0].about}", keys)


def _keys_of(kind: type) -> dict[str, Any]:
    """Key -> (type hint, field) of every setting of a dataclass."""
    hints = get_type_hints(kind)
    keys: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        if not item.metadata.get("in_job", True):
            continue
        hint, given = hints[item.name], _default(item)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            hint = _section(hint, hint.__doc__, _keys_of(hint))
            given = {"default": hint()}
        else:
            hint = _as_in_a_file(hint, item.metadata.get("limits", {}), unordered=item.metadata.get("unordered", False))
        keys[item.name] = (hint, Field(**given, description=item.metadata.get("help")))
    return keys


def _section(kind: type, about: str | None, keys: dict[str, Any]) -> type[Section]:
    made: type[Section] = create_model(f"{kind.__name__}Spec", __base__=Section, __doc__=about, **keys)
    return made


def settings_of(kind: type, section: Section) -> dict[str, Any]:
    """The method's constructor arguments, from its section."""
    hints = get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind) if item.name in type(section).model_fields]
    return {name: _setting_of(hints[name], getattr(section, name)) for name in names}


def _setting_of(hint: Any, value: Any) -> Any:
    if isinstance(value, Section):
        return hint(**settings_of(hint, value))
    if isinstance(value, list) and value and isinstance(value[0], Section):
        [inner] = get_args(hint)
        return [_setting_of(inner, each) for each in value]
    return copy.copy(value)


def _default(item: dataclasses.Field[Any]) -> dict[str, Any]:
    if item.default_factory is not dataclasses.MISSING:
        return {"default_factory": item.default_factory}
    return {"default": ... if item.default is dataclasses.MISSING else item.default}


def _as_in_a_file(hint: Any, limits: Mapping[str, Any], *, unordered: bool = False) -> Any:
    """The type hint with its limits added to numbers or texts; where a list is allowed, a single value means a list of
    one. unordered: a list is sorted."""
    if get_origin(hint) in (Union, UnionType):
        parts = [_as_in_a_file(part, limits, unordered=unordered) for part in get_args(hint)]
        return Union[tuple(parts)]  # noqa: UP007
    if get_origin(hint) is list:
        [inner] = get_args(hint)
        inner = _in_a_list(inner) if dataclasses.is_dataclass(inner) else _as_in_a_file(inner, limits)
        several: Any = list.__class_getitem__(inner)
        if "min_length" in limits:
            several = Annotated[several, Field(min_length=limits["min_length"])]
        if unordered:
            several = Annotated[several, AfterValidator(sorted)]
        return Annotated[several, BeforeValidator(_as_list, json_schema_input_type=inner | several)]
    if hint is str and "pattern" in limits:
        return Annotated[str, StringConstraints(pattern=limits["pattern"])]
    numeric = {name: limit for name, limit in limits.items() if name not in {"pattern", "min_length"}}
    return Annotated[hint, Field(**numeric)] if hint in _NUMBERS and numeric else hint


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else as_list(value)


def _in_a_list(kind: Any) -> Any:
    """The section of a dataclass of which a list is wanted. A text means its first field."""
    section, first = _section(kind, kind.__doc__, _keys_of(kind)), dataclasses.fields(kind)[0].name
    short = BeforeValidator(
        lambda value: {first: value} if isinstance(value, str) else value, json_schema_input_type=section | str
    )
    return Annotated[section, short]
