"""losses.png: the losses of G and D over the steps."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdcgan.limits.memory import collect_cycles_at_exit
from fastdcgan.storage.files import replacing
from fastdcgan.telemetry.metrics import Curves

GROUPS = 1_000
"""Of neighbours in a curve, at most: as many as there are pixels from its left to its right."""


@collect_cycles_at_exit()
def plot_losses(curves: Curves, path: Path) -> None:
    """Plot the losses, and D's probabilities below them, to a PNG. Raises OSError if it can't be written."""
    from matplotlib.figure import Figure  # slow to import, and needed only now

    figure = Figure(figsize=(9, 6.5), dpi=120)
    # Margins that suit any labels: to measure them first takes as long as drawing.
    figure.subplots_adjust(left=0.09, right=0.985, bottom=0.085, top=0.94, hspace=0.08)
    losses, probabilities = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    losses.plot(*_outline(curves, "loss_g"), label="G", color="#d95f02", linewidth=1.4)
    losses.plot(*_outline(curves, "loss_d"), label="D", color="#1b9e77", linewidth=1.4)
    losses.set(title="Generator and discriminator loss during training", ylabel="loss")
    probabilities.plot(*_outline(curves, "d_real"), label="D(x), real", color="#1b9e77", linewidth=1.4)
    probabilities.plot(*_outline(curves, "d_fake"), label="D(G(z)), fake", color="#d95f02", linewidth=1.4)
    probabilities.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    probabilities.set(xlabel="step", ylabel="D's probability of real", ylim=(0, 1))
    for axes in (losses, probabilities):
        axes.grid(alpha=0.25)
        axes.legend(loc="center right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png")


def _outline(curves: Curves, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a curve: of each group of neighbours the least and the greatest, which look like all of it.

    Drawing takes memory and time for each point, and a long run has a million.
    """
    steps, values = (np.array(curves[one]) for one in ("step", name))  # copies: an array that is looked at can't grow
    if len(values) <= 2 * GROUPS:
        return steps, values
    groups = np.array_split(np.arange(len(values)), GROUPS)
    kept = sorted(
        {0, len(values) - 1} | {group[pick(values[group])] for group in groups for pick in (np.argmin, np.argmax)}
    )
    return steps[kept], values[kept]
