"""Samples of a run that masks tokens, token by token, for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tamis.pipeline.report import text

TOKENS_AT_EITHER_END = 400
"""Of a long sample, this many tokens are shown from each end."""

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


def _sample(example: Mapping[str, Any]) -> dict[str, Any]:
    known = ("sample_id", "source", "row", "shard", "decision", "n_response_tokens", "discarded")
    return {name: example.get(name) for name in known} | {"runs": runs(example.get("pieces") or [])}


def runs(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The text in runs of the kinds prompt, kept, discarded (one token each, with its risk), and gap (omitted text).

    Neighbours of the same kind are joined, except discarded tokens: each has its own risk.
    """
    ends = TOKENS_AT_EITHER_END
    hidden = pieces[ends:-ends] if len(pieces) > 2 * ends + 1 else []
    if not hidden:
        return _joined(pieces)
    gap = {"kind": "gap", "tokens": len(hidden), "discarded": sum(bool(piece.get("discarded")) for piece in hidden)}
    return [*_joined(pieces[:ends]), gap, *_joined(pieces[-ends:])]


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
