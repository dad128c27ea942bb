"""Rows as the model will read them, on the terminal: which text is scored, and which tokens the template writes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from tamis.pipeline.commands.screen_parts import plain
from tamis.pipeline.planning.sampling import Sample
from tamis.pipeline.terminal.text import shown

_LONGEST = 300
_LITTLE = 40  # characters that are not left out: the words for it would be as long
_MOST_PIECES = 60
_MARKS = {"text": ("", "", ""), "control": ("[[", "]]", "cyan"), "scored": (">>>", "<<<", "bold green")}
_AS_MARKS = re.compile(r"\[\[|\]\]|>>>|<<<")  # in a text they get a backslash
_LEGEND = ">>> and <<< are around what is scored, [[ and ]] around a control token"


def show_samples(console: Console, samples: Sequence[Sample]) -> None:
    """Each sample with its place and roles, every line behind a bar, so that no text can look like ours. Long texts are
    cut in their middle."""
    for sample in samples:
        roles = ", ".join(sample.roles)
        where = f"{sample.file}, row {sample.row} (counted from 0), as it is rendered"
        console.print(plain(f"{where}: {roles}; {sample.tokens:,} tokens; {_LEGEND}"), highlight=False)
        console.print(_rendered(sample), soft_wrap=True)
        console.print()


def _rendered(sample: Sample) -> Text:
    text = Text("  | ")
    pieces = list(sample.pieces)
    left_out = max(len(pieces) - _MOST_PIECES, 0)
    if left_out:
        half = _MOST_PIECES // 2
        pieces[half:-half] = [(f"\n... ({left_out:,} more pieces) ...\n", "text")]
    for piece, kind in pieces:
        opening, closing, style = _MARKS[kind]
        lines = _shortened(piece).split("\n")
        text.append(opening, style)
        text.append("\n  | ".join(_AS_MARKS.sub(r"\\\g<0>", shown(line)) for line in lines), style)
        text.append(closing, style)
    return text


def _shortened(piece: str) -> str:
    if len(piece) <= _LONGEST + _LITTLE:
        return piece
    half = _LONGEST // 2
    return f"{piece[:half]} ... ({len(piece) - 2 * half:,} characters) ... {piece[-half:]}"
