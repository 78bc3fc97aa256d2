"""losses.png: the losses of G and D over the steps."""

from pathlib import Path

import numpy as np

from fastdcgan.limits.memory import collect_cycles_at_exit
from fastdcgan.storage.files import replacing
from fastdcgan.telemetry.metrics import Curves


@collect_cycles_at_exit()
def plot_losses(curves: Curves, path: Path) -> None:
    """Plot the losses, and D's probabilities below them, to a PNG. Raises OSError if it can't be written."""
    from matplotlib.figure import Figure  # slow to import, and needed only now

    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    losses, probabilities = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    drawn = {name: np.array(values) for name, values in curves.items()}  # an array that is looked at can't grow
    steps = drawn["step"]
    losses.plot(steps, drawn["loss_g"], label="G", color="#d95f02", linewidth=1.4)
    losses.plot(steps, drawn["loss_d"], label="D", color="#1b9e77", linewidth=1.4)
    losses.set(title="Generator and discriminator loss during training", ylabel="loss")
    probabilities.plot(steps, drawn["d_real"], label="D(x), real", color="#1b9e77", linewidth=1.4)
    probabilities.plot(steps, drawn["d_fake"], label="D(G(z)), fake", color="#d95f02", linewidth=1.4)
    probabilities.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    probabilities.set(xlabel="step", ylabel="D's probability of real", ylim=(0, 1))
    for axes in (losses, probabilities):
        axes.grid(alpha=0.25)
        axes.legend(loc="center right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png")
