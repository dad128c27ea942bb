"""Samples of a run that masks tokens, token by token, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from tamis.pipeline.report import text

TOKENS_AT_EITHER_END = 400
"""Of a long sample, this many tokens are shown from each end."""

FULL_COLOUR = 0.99
"""The colour of a risk is full at this quantile of the shown risks' sizes: a single one would leave the rest pale."""

PIECE_LIMIT = 400
"""The most characters shown of one token, which may be a long run of blanks."""

_GROUPS = {
    "most": "Samples with the most discarded",
    "part": "Samples with a part discarded",
    "border": "Samples with tokens at the cut",
}


def groups(examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples under the titles of their groups; unknown groups come last."""
    found: dict[str, list[dict[str, Any]]] = {title: [] for title in _GROUPS.values()}
    for example in examples:
        found.setdefault(_GROUPS.get(str(example.get("group")), "Other samples"), []).append(_sample(example))
    return [{"title": title, "samples": samples} for title, samples in found.items()]


def samples_view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The same samples for the page's script: see sample_data.py."""
    examples = list(summary.get("examples") or [])
    titles = [*_GROUPS.values(), "Other samples"]
    sources = list(dict.fromkeys(_source(example) for example in examples))
    risks = [abs(risk) for example in examples for risk in _risks(example)]
    return {
        "kind": "tokens",
        "run": str(summary.get("run_id") or summary.get("title") or ""),
        "columns": [
            {"title": "share", "hint": "of its response tokens, discarded", "unit": "share", "narrow": True},
            {"title": "discarded", "hint": "response tokens that are discarded", "unit": "count", "narrow": False},
            {"title": "tokens", "hint": "response tokens", "unit": "count", "narrow": False},
        ],
        "groups": titles,
        "source": "file",
        "sources": sources,
        "scale": float(np.quantile(risks, FULL_COLOUR)) if risks else None,
        "samples": [
            {
                "id": str(example.get("sample_id") or ""),
                "v": _numbers(example),
                "g": [titles.index(_GROUPS.get(str(example.get("group")), titles[-1]))],
                "s": sources.index(_source(example)),
                "d": example.get("decision") or "",
                "f": [
                    ["file", f"{_source(example)}, row {text.count(example.get('row'))}"],
                    ["shard", str(example.get("shard") or "")],
                    ["sample_id", str(example.get("sample_id") or "")],
                ],
                "t": tokens(example.get("pieces") or []),
            }
            for example in examples
        ],
    }


def tokens(pieces: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """[text, risk, discarded] of each token, and [tokens, discarded ones] where some are left out."""
    shown: list[list[Any]] = []
    for kind, part in _parts(pieces):
        if kind == "gap":
            shown.append([len(part), sum(bool(piece.get("discarded")) for piece in part)])
        else:
            shown += [[_text(each), text.number(each.get("risk")), int(bool(each.get("discarded")))] for each in part]
    return shown


def _risks(example: Mapping[str, Any]) -> list[float]:
    found = (text.number(piece.get("risk")) for piece in example.get("pieces") or [])
    return [risk for risk in found if risk is not None]


def _numbers(example: Mapping[str, Any]) -> list[float | None]:
    discarded, whole = text.number(example.get("discarded")), text.number(example.get("n_response_tokens"))
    return [discarded / whole if discarded is not None and whole else None, discarded, whole]


def _source(example: Mapping[str, Any]) -> str:
    return text.one_line(str(example.get("source") or "")) or text.UNKNOWN


def _sample(example: Mapping[str, Any]) -> dict[str, Any]:
    known = ("sample_id", "source", "row", "shard", "decision", "n_response_tokens", "discarded")
    return {name: example.get(name) for name in known} | {"runs": runs(example.get("pieces") or [])}


def runs(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The text in runs of the kinds prompt, kept, discarded (one token each, with its risk), and gap (omitted text).

    Neighbours of the same kind are joined, except discarded tokens: each has its own risk.
    """
    made: list[dict[str, Any]] = []
    for kind, part in _parts(pieces):
        if kind == "gap":
            discarded = sum(bool(piece.get("discarded")) for piece in part)
            made.append({"kind": "gap", "tokens": len(part), "discarded": discarded})
        else:
            made += _joined(part)
    return made


def _parts(pieces: Sequence[Mapping[str, Any]]) -> list[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The tokens that are shown, and between them, of a long sample, those that are left out: the gap."""
    ends = TOKENS_AT_EITHER_END
    if len(pieces) <= 2 * ends + 1:
        return [("shown", pieces)]
    return [("shown", pieces[:ends]), ("gap", pieces[ends:-ends]), ("shown", pieces[-ends:])]


def _joined(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for kind, group in groupby(pieces, _kind):
        if kind == "discarded":
            made += [{"kind": kind, "text": _text(piece), "risk": text.number(piece.get("risk"))} for piece in group]
        else:
            made.append({"kind": kind, "text": "".join(map(_text, group))})
    return made


def _kind(piece: Mapping[str, Any]) -> str:
    if piece.get("discarded"):
        return "discarded"
    return "prompt" if piece.get("risk") is None else "kept"


def _text(piece: Mapping[str, Any]) -> str:
    """A token's text with its newlines both shown and kept, clipped."""
    shown, left_out = text.clip(text.visible(str(piece.get("text") or "")), PIECE_LIMIT)
    return shown.replace("\n", "↵\n") + ("…" if left_out else "")
