"""The sandbox in which chat templates are compiled and run: that of transformers, without transformers.

To import transformers, and torch with it, takes seconds, which every process that tokenises would spend for a page of
Jinja settings. They are those of transformers' `apply_chat_template` (a test compares the two): templates come with
models, so they are untrusted code and run in Jinja's sandbox, which lets them change nothing that they are given.
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

# The date that Llama 3's own templates write where they know of none.
FIXED_DATE = datetime(2024, 7, 26)


def compile_template(source: str) -> jinja2.Template:
    """Raises jinja2.TemplateSyntaxError. What it renders with: messages, and what the tokenizer names."""
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
    """{% generation %} ... {% endgeneration %}, by which a template marks what the assistant says: what is between."""

    tags = {"generation"}  # noqa: RUF012  (so Jinja has it)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A call, as in transformers: what is set in it is not known behind it, and no loop around it can be left.
        return nodes.CallBlock(self.call_method("_between"), [], [], body).set_lineno(line)

    def _between(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` in a template: it makes dictionaries, and nothing can be reached through it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace` in a template, which keeps no name that begins with an underscore: Python's own lie behind them."""

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
    """Jinja's own would escape for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
