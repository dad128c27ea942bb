"""Plots of a layer search: refusals by factor, one line per block; sensitivity and Fisher ratio, one bar per block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from tamis.pipeline.report import svg, text

DEPTHS = 10
"""Shades of the lines, from the lowest blocks to the highest."""

_MOST_TICKS = 24


def refusal_lines(rows: Sequence[Mapping[str, float]], unscaled: float, picked: int) -> Markup:
    """rows: for every block, factor as text -> refusals. The line of block `picked` is highlighted and labelled."""
    curves = [
        sorted([*((float(factor), float(count)) for factor, count in row.items()), (1.0, unscaled)]) for row in rows
    ]
    factors = [factor for factor, _ in curves[0]]
    most = max(max(count for _, count in curve) for curve in curves)
    ticks = svg.round_steps(0, max(most, 1))
    axes = svg.Axes(factors[0], factors[-1], lambda value: value / ticks[-1])
    parts = [svg.grid(axes, [(tick, text.count(tick)) for tick in ticks if tick == int(tick)])]
    parts += [svg.tick(axes.x(factor), f"{factor:g}") for factor in factors]
    order = [*(block for block in range(len(curves)) if block != picked), picked]
    for block in order:
        points = " ".join(f"{svg.n(axes.x(factor))},{svg.n(axes.y(count))}" for factor, count in curves[block])
        kind = "curve picked" if block == picked else f"curve depth{block * DEPTHS // len(curves)}"
        named = f"block {block}: " + ", ".join(f"{count:g} at {factor:g}" for factor, count in curves[block])
        parts.append(
            Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(kind, points, named)
        )
    end = axes.y(curves[picked][-1][1])
    parts.append(svg.label(axes.x(factors[-1]) - 6, end - 7, f"block {picked}", "value end"))
    parts.append(svg.axis_title("answers that are refusals", "factor of the block's weights (1: unscaled)"))
    first, last = curves[picked][0], curves[picked][-1]
    words = (
        f"A line for each of {len(curves)} blocks. Block {picked}: {first[1]:g} refusals at {first[0]:g}, "
        f"{unscaled:g} unscaled, {last[1]:g} at {last[0]:g}"
    )
    return svg.figure("Refusals against the factor of a block's weights", words, parts)


def block_bars(values: Sequence[float | None], picked: int | None, title: str, vertical: str) -> Markup:
    """One bar per block, upwards or downwards from 0, no bar where there is no value. picked: the highlighted block."""
    known = [value for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    if high - low < 1e-12:  # too small to see, and too small for the arithmetic of an axis
        high = low + 1.0
    step = svg.nice_ceiling((high - low) / 5)
    bottom, top = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
    axes = svg.Axes(0, len(values), lambda value: (value - bottom) / (top - bottom))
    ticks = [bottom + step * number for number in range(round((top - bottom) / step) + 1)]
    parts = [svg.grid(axes, [(tick, f"{tick + 0.0:.4g}") for tick in ticks])]
    every = math.ceil(len(values) / _MOST_TICKS)
    zero = axes.y(0)
    for block, value in enumerate(values):
        left, right = axes.x(block + 0.14), axes.x(block + 0.86)
        if value is not None:
            at = axes.y(value)
            parts.append(svg.bar("picked" if block == picked else "block", left, right, min(at, zero), abs(at - zero)))
        if block % every == 0 or block == picked:
            parts.append(svg.tick((left + right) / 2, str(block)))
    parts.append(svg.level("axis", zero))
    parts.append(svg.axis_title(vertical, "block"))
    words = "; ".join(f"block {block}: {text.fact(value)}" for block, value in enumerate(values))
    return svg.figure(title, words, parts)
