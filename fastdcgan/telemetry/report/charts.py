"""Curves for the report: SVG in the colours of the page around it, so that they suit light, dark and paper."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_POINTS = 240
"""Of a curve: a pixel or two each. What lies between is drawn as its mean, in a band from its least to its most."""

# Colours nobody would choose, each replaced by a variable of the page's style sheet.
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--line)", "#010205": "var(--one)", "#010206": "var(--two)"}
_INK, _LINE, ONE, TWO = _VARIABLES


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values over steps."""

    steps: Sequence[int]
    values: Sequence[float]
    colour: str = ONE
    dots: bool = False
    """Mark each value."""


def chart(
    curves: Sequence[Curve],
    *,
    label: str,
    limits: tuple[float | None, float | None] = (None, None),
    level: float | None = None,
    percent: bool = False,
) -> str:
    """An `<svg>` element, without any text from outside but `label`, which is ours.

    Args:
        curves: each of one value at least.
        label: what those are told who can't see it.
        limits: of the vertical axis; None for what fits.
        level: where to draw a dotted line across.
        percent: values are shares of one.
    """
    from matplotlib import rc_context  # slow to import, and needed only now
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10}):
        figure = Figure(figsize=(5, 2.5), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            _draw(axes, curve)
        if level is not None:
            axes.axhline(level, color=_INK, linewidth=1, linestyle=(0, (1, 3)))
        axes.set_ylim(*limits)
        axes.margins(x=0.01)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * value:.3g}%" if percent else f"{value:,.6g}")
        )
        axes.grid(axis="y", color=_LINE, linewidth=0.8)
        axes.tick_params(colors=_INK, length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True)
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{label}"', svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)


def thinned(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, means, least and most values of so many neighbours that there are no more than MOST_POINTS."""
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MOST_POINTS))
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    columns = np.array([(x[part].mean(), y[part].mean(), y[part].min(), y[part].max()) for part in parts])
    return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3]


def _draw(axes: Any, curve: Curve) -> None:
    steps, means, least, most = thinned(curve.steps, curve.values)
    if len(curve.steps) > MOST_POINTS:
        axes.fill_between(steps, least, most, color=curve.colour, alpha=0.2, linewidth=0)
    alone = "o" if curve.dots or len(steps) == 1 else None
    axes.plot(steps, means, color=curve.colour, linewidth=1.6, marker=alone, markersize=3.5)
