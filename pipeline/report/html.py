"""Pages from the templates of this package.

Self-contained: a Content-Security-Policy in the page forbids every load, every style but its own, and every script; on
a page with data, every script but its own. All values go through `text.visible` and jinja's escaping; only markup made
in this package passes unescaped.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment, FunctionLoader
from markupsafe import Markup

from tamis.pipeline.report import prose, text

# What could end the element, begin another one or a comment in it, or is the end of a line to some readers of scripts.
_ESCAPED = str.maketrans({character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"})


def render(template: str, *, page_data: Any = None, **values: Any) -> str:
    """The page that the template makes of these values. Pure: the same values give the same page.

    page_data: JSON values for the page's script (report.js); without them, the page has no script.
    """
    style = _read("report.css")
    known = {"style": Markup(style), "style_hash": _hash_of(style)}
    if page_data is not None:
        script = _read("report.js")
        known |= {"script": Markup(script), "script_hash": _hash_of(script), "page_data": embedded(page_data)}
    return _environment().get_template(template).render(values | known)


def embedded(value: Any) -> Markup:
    """JSON that can stand in a script element which is not run: no text in it can end the element."""
    shown = _visible(value)
    return Markup(json.dumps(shown, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPED))


def _visible(value: Any) -> Any:
    """The same value with nothing invisible in its texts."""
    if isinstance(value, str):
        return text.visible(value)
    if isinstance(value, dict):
        return {text.visible(str(name)): _visible(inner) for name, inner in value.items()}
    return [_visible(inner) for inner in value] if isinstance(value, list | tuple) else value


def _hash_of(content: str) -> Markup:
    """As the policy names what it allows. Nothing else that is hidden in a text can run or load."""
    return Markup(f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}")


@cache
def _environment() -> Environment:
    """The templates, each compiled once."""
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "grouped": text.count,
        "share": text.share,
        "score": text.score,
        "rate": text.rate,
        "seconds": text.seconds,
        "size": text.size,
        "fact": text.fact,
        "facts": text.facts,
        "when": text.when,
        "method": prose.method_name,
    }
    return environment


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Last step of every output expression: nothing invisible reaches the page."""
    if isinstance(value, Markup):
        return value
    return text.visible(str(value)) if value is not None and not isinstance(value, ChainableUndefined) else text.UNKNOWN
