"""The sandbox in which chat templates are compiled and run: the sandbox of transformers, without transformers.

Importing transformers, and torch with it, takes seconds, which every process that tokenises would spend only for a
page of Jinja settings. The settings are the same as in transformers' `apply_chat_template`; a test compares the two.
Templates come with models, so they are untrusted code. They run in Jinja's sandbox, where they cannot modify their
inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

# The date that Llama 3's own templates write if they are given none.
FIXED_DATE = datetime(2024, 7, 26)


def compile_template(source: str) -> jinja2.Template:
    """The template, to be rendered with the messages and the tokenizer's named special tokens.

    Raises jinja2.TemplateSyntaxError.
    """
    return _environment().from_string(source)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        # A corpus must give the same tokens tomorrow.
        "strftime_now": FIXED_DATE.strftime,
        "dict": _Dict(),
        "namespace": _Namespace,
    }
    return environment


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks what the assistant says; it renders as the text in between."""

    tags = {"generation"}  # noqa: RUF012  (as Jinja declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call block, as in transformers: variables set in it are not visible after it, and it cannot break out of
        # a loop around it.
        return nodes.CallBlock(self.call_method("_between"), [], [], body).set_lineno(line)

    def _between(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` in a template: it makes dictionaries and gives access to nothing else."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` in a template. It refuses names that begin with an underscore: those reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args  # as in Jinja, so that a template may name something `self`
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a chat template may not keep {name!r} in a namespace")


def _raise(message: str) -> NoReturn:
    raise jinja2.exceptions.TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Replaces Jinja's own filter, which would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
