"""The dataset card: README.md of the output folder, whose front matter makes load_dataset find kept/, and dropped/ and
scores/ by their names.

Markdown may be rendered with HTML in it, so every value is escaped by default; blocks made here pass unchanged. Places
on the machine of the run appear by their last name only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import ChainableUndefined, Environment
from markupsafe import Markup

from tamis.pipeline.report import prose, text, token_prose
from tamis.pipeline.report.places import Names, without_places
from tamis.pipeline.report.run_view import COUNTS
from tamis.pipeline.report.verdict import words
from tamis.pipeline.run.paths import DROPPED, KEPT, SCORES

FILES_SHOWN, COLUMNS_SHOWN = 20, 10

_BACKSLASHED = re.compile(r"([\\*_\[\]~$])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;", "`": "&#96;"}
_BLOCK_START = re.compile(r"^(?:(\d+)(?=[.)](?: |$))|(?=[-+](?!\d)|[#=]))")


def render_card(summary: Mapping[str, Any]) -> str:
    """README.md for a summary (a Summary or a TokenSummary). Pure; contains no text of samples."""
    template_text = resources.files(__package__).joinpath("card.md").read_text(encoding="utf-8")
    job = summary.get("job") or {}
    named = Names([job, summary.get("fingerprint")])
    environment = Environment(
        autoescape=False,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: _shown(value, named),
    )
    environment.filters |= {"grouped": text.count, "share": text.share, "size": text.size, "when": text.when}
    counts = dict.fromkeys(COUNTS, 0) | dict(summary.get("counts") or {})
    title = text.one_line(str(summary.get("title") or "")) or "A filtered corpus"
    source = summary.get("input") or {}
    files = list(source.get("files") or [])
    return environment.from_string(template_text).render(
        front_matter=front_matter(title, kept=bool(counts["kept"]), dropped=bool(counts["dropped"])),
        title=title,
        **(_of_tokens(summary) if summary.get("kind") == "tokens" else _of_samples(summary, job)),
        numbering=prose.LAYERS,
        counts=counts,
        input=source,
        files=files[:FILES_SHOWN],
        files_left_out=max(0, len(files) - FILES_SHOWN),
        model=summary.get("model") or {},
        json_columns=_some(list(summary.get("json_columns") or [])),
        warnings=list(summary.get("warnings") or []),
        created=summary.get("created") or "",
        version=summary.get("tamis_version") or "",
        ids=job.get("sample_id"),
        job=fenced(text.as_yaml(without_places(job)), "yaml") if job else None,
    )


def _of_samples(summary: Mapping[str, Any], job: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the card for a run that drops samples."""
    return {
        "headline": prose.headline(summary),
        "selection_line": prose.selection_line(summary),
        "method_lines": prose.method_lines(summary),
        "reading": [prose.how_to_read(method, job) for method in summary.get("methods") or []],
        "layers": bool(summary.get("layers")),
        "control": prose.control(summary),
        "verdict": words((summary.get("trust") or {}).get("verdict") or {}),
    }


def _of_tokens(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the card for a run that masks tokens."""
    tokens = summary.get("tokens") or {}
    return {
        "headline": token_prose.headline(summary),
        "selection_line": token_prose.selection_line(summary),
        "reading": token_prose.how_to_read(summary),
        "tokens": {name: text.whole(tokens.get(name)) for name in ("response", "discarded")},
        "fingerprint": text.facts(summary.get("fingerprint") or {}),
    }


def front_matter(title: str, *, kept: bool, dropped: bool) -> Markup:
    """The front matter for the Hugging Face tools: what is loaded without a config is kept/ and nothing else. kept,
    dropped: whether a row was; `datasets` cannot load a config without rows. With neither, kept/ stays: `datasets`
    takes a single config for the default, and scores/ is not the corpus."""
    configs = {
        **({"default": KEPT} if kept or not dropped else {}),
        **({DROPPED: DROPPED} if dropped else {}),
        SCORES: SCORES,
    }
    known = {
        "pretty_name": text.one_line(title),
        "tags": ["tamis", "safety-filtered"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{folder}/*.parquet"}]}
            for name, folder in configs.items()
        ],
    }
    return Markup("---\n" + text.as_yaml(known, width=10**9) + "---")


def _some(names: list[str]) -> str:
    left_out = len(names) - COLUMNS_SHOWN
    return ", ".join(names[:COLUMNS_SHOWN]) + (f" and {left_out:,} more places" if left_out > 0 else "")


def markdown(value: str) -> str:
    """The text as one line that Markdown (and HTML in it) shows literally, also in a table cell."""
    line = " ".join(text.one_line(value).split(" "))
    line = _BACKSLASHED.sub(r"\\\1", line)
    line = "".join(_ENTITIES.get(character, character) for character in line)
    return _BLOCK_START.sub(lambda match: (match.group(1) or "") + "\\", line)


def fenced(block: str, language: str) -> Markup:
    """A code block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", block)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{block.rstrip()}\n{fence}")


def _shown(value: Any, named: Names) -> Any:
    """Last step of every output expression of the template."""
    if isinstance(value, Markup):
        return value
    return (
        markdown(named(str(value))) if value is not None and not isinstance(value, ChainableUndefined) else text.UNKNOWN
    )
