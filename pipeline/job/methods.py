"""The known methods: those of tamis, and those that installed distributions offer.

A distribution offers a method by an entry point of the group `tamis.methods`, whose name is the method's:

    [project.entry-points."tamis.methods"]
    norm = "tamis_norm:Norm"

An offer that cannot be used is reported and left out; jobs that do not use it run all the same.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BeforeValidator, Field, StringConstraints, create_model

from tamis.operators.methods import METHODS, Method
from tamis.pipeline.errors import error_text
from tamis.pipeline.job.sections import TOKEN_METHODS, Section, as_list
from tamis.pipeline.terminal.voice import warn_once

GROUP = "tamis.methods"
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_NUMBERS = (int, float)


@dataclass(frozen=True)
class Known:
    """A method, and the distribution that offers it, as "name version"; None for tamis itself."""

    kind: type[Method]
    distribution: str | None = None


@functools.cache
def known() -> Mapping[str, Known]:
    """Every method that scores samples, by name. Reports offers that cannot be used, once."""
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
        if offer.name in found or offer.name in TOKEN_METHODS:
            return "another method has this name"
        if kind.finds_block:
            return "finds_block is for LARF alone, whose block the search looks for"
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


@functools.cache
def section_of(kind: type[Method]) -> type[Section]:
    """The section of the job file for a method's settings, with a key for the file of each reference set."""
    hints = get_type_hints(kind)
    keys: dict[str, Any] = {}
    for item in dataclasses.fields(kind):  # type: ignore[arg-type]
        if item.metadata.get("in_job", True):
            hint = _as_in_a_file(hints[item.name], item.metadata.get("limits", {}))
            keys[item.name] = (hint, Field(**_default(item), description=item.metadata.get("help")))
    for source, about in kind.references.items():
        keys[f"{source}_references"] = (str | None, Field(None, description=about))
    made: type[Section] = create_model(f"{kind.__name__}Spec", __base__=Section, __doc__=_about(kind), **keys)
    return made


def settings_of(kind: type[Method], section: Section) -> dict[str, Any]:
    """The method's constructor arguments, from its section."""
    names = {item.name for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return section.model_dump(include=names)


def _about(kind: type[Method]) -> str:
    return f"{kind.title}: {kind.about}"


def _default(item: dataclasses.Field[Any]) -> dict[str, Any]:
    if item.default_factory is not dataclasses.MISSING:
        return {"default_factory": item.default_factory}
    return {"default": ... if item.default is dataclasses.MISSING else item.default}


def _as_in_a_file(hint: Any, limits: Mapping[str, Any]) -> Any:
    """The type hint with its limits added to numbers or texts; where a list is allowed, a single value means a list of
    one."""
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_as_in_a_file(part, limits) for part in get_args(hint))]  # noqa: UP007
    if get_origin(hint) is list:
        [inner] = get_args(hint)
        inner = _as_in_a_file(inner, limits)
        several: Any = list.__class_getitem__(inner)
        return Annotated[several, BeforeValidator(as_list, json_schema_input_type=inner | several)]
    if hint is str and "pattern" in limits:
        return Annotated[str, StringConstraints(pattern=limits["pattern"])]
    numeric = {name: limit for name, limit in limits.items() if name != "pattern"}
    return Annotated[hint, Field(**numeric)] if hint in _NUMBERS and numeric else hint
