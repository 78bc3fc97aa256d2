"""Charts as SVG with the CSS colours of the page around them, so that they suit light mode, dark mode and print."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 240
"""Of a curve, a pixel or two each. A longer one is drawn as means of neighbours, in a band from minimum to maximum."""

# Placeholders, each replaced by a variable of the page's style sheet.
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--line)", "#010205": "var(--one)", "#010206": "var(--two)"}
_INK, _LINE, FIRST_COLOUR, SECOND_COLOUR = _VARIABLES


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Values by step."""

    steps: Sequence[int]
    values: Sequence[float]
    colour: str = FIRST_COLOUR
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
    """Draw curves as an `<svg>` element. `label` is not escaped: it must not be text from outside.

    Args:
        curves: each of one value at least.
        label: for screen readers (aria-label).
        limits: of the vertical axis; None: fitted to the values.
        level: where to draw a dotted horizontal line.
        percent: values are shares of 1, labelled in percent.
    """
    from matplotlib import rc_context  # slow to import, and needed only now
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": label, "font.size": 10}):
        figure = Figure(figsize=(5, 2.5))
        figure.subplots_adjust(left=0.15, right=0.93, bottom=0.12, top=0.95)  # measuring takes as long as drawing
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
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' style="([^"]*)"', _as_attributes, svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', rf'\1 role="img" aria-label="{label}"', svg, count=1)
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)


def _as_attributes(style: re.Match[str]) -> str:
    """Styles as attributes, which no Content-Security-Policy forbids. Fonts are left to the page."""
    pairs = [declaration.split(": ") for declaration in style[1].split("; ")]
    return "".join(f' {name}="{value}"' for name, value in pairs if name != "font-family")


def downsampled(
    steps: Sequence[int], values: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Steps, means, minima and maxima of groups of neighbours, fp64 [N] with N of MAX_POINTS at most."""
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MAX_POINTS))
    x, y = np.asarray(steps, np.float64), np.asarray(values, np.float64)
    columns = np.array([(x[part].mean(), y[part].mean(), y[part].min(), y[part].max()) for part in parts])
    return columns[:, 0], columns[:, 1], columns[:, 2], columns[:, 3]


def _draw(axes: Any, curve: Curve) -> None:
    steps, means, minima, maxima = downsampled(curve.steps, curve.values)
    if len(curve.steps) > MAX_POINTS:
        axes.fill_between(steps, minima, maxima, color=curve.colour, alpha=0.2, linewidth=0)
    marker = "o" if curve.dots or len(steps) == 1 else None
    axes.plot(steps, means, color=curve.colour, linewidth=1.6, marker=marker, markersize=3.5)
