"""The page of `tamis compare`: the figures, and the texts of what each run drops alone.

Self-contained, without a script: a Content-Security-Policy allows its own style by its hash and nothing else. Every
text from outside is escaped, made visible and cut to MOST_CHARACTERS.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from tamis.pipeline.report import text

MOST_CHARACTERS = 2000
"""Of one row's text."""


def page(figures: Mapping[str, Any], alone: Sequence[Sequence[int]], texts: Sequence[Mapping[int, str]]) -> str:
    """The page. alone: of each run, the places of the rows to show, as in `figures["alone"]`. texts: of each run, by
    place; a row in quarantine has none. Pure: the same values give the same page."""
    style = _read("compare.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    shown = [
        [_clipped(texts[run].get(place)) for place in places[: len(figures["alone"][run]["riskiest"])]]
        for run, places in enumerate(alone)
    ]
    paths = {run["name"]: run["path"] for run in figures["runs"]}
    known = {"style": Markup(style), "style_hash": Markup(f"sha256-{digest}"), "texts": shown, "paths": paths}
    return _environment().get_template("compare.html").render(**figures, **known)


def _clipped(words: str | None) -> tuple[str, int]:
    return ("(its text is not at hand)", 0) if words is None else text.clip(words, MOST_CHARACTERS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_read),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {
        "grouped": text.count,
        "score": lambda value: text.score(value, 4),
        "share": text.share,
        "one_line": text.one_line,
        "spearman": lambda value: text.UNKNOWN if value is None else f"{value:+.3f}",
    }
    return environment


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _shown(value: Any) -> Any:
    """Last step of every output expression: nothing invisible reaches the page."""
    if isinstance(value, Markup):
        return value
    return text.UNKNOWN if value is None else text.visible(str(value))
