"""Pages from the templates of this package.

Self-contained: a Content-Security-Policy in the page forbids every load, every script and every style but its own. All
values go through `text.visible` and jinja's escaping; only markup made in this package passes unescaped.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment, FunctionLoader
from markupsafe import Markup

from tamis.pipeline.report import prose, text


def render(template: str, **values: Any) -> str:
    """The page that the template makes of these values. Pure: the same values give the same page."""
    style = _read("report.css")
    # The page has no script, and its only style is allowed by its hash: nothing hidden in a text can run or load.
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    known = {"style": Markup(style), "style_hash": Markup(f"sha256-{digest}")}
    return _environment().get_template(template).render(values | known)


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
