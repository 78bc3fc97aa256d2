"""losses.png: the losses of G and D over the steps."""

from collections.abc import Sequence
from pathlib import Path

from fastdcgan.limits.memory import collect_cycles_at_exit
from fastdcgan.storage.files import replacing
from fastdcgan.telemetry.metrics import Record


@collect_cycles_at_exit()
def plot_losses(records: Sequence[Record], path: Path) -> None:
    """Plot the losses, and D's probabilities below them, to a PNG. Raises OSError if it can't be written."""
    from matplotlib.figure import Figure  # slow to import, and needed only now

    figure = Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    losses, probabilities = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    steps = [record.step for record in records]
    losses.plot(steps, [r.loss_g for r in records], label="G", color="#d95f02", linewidth=1.4)
    losses.plot(steps, [r.loss_d for r in records], label="D", color="#1b9e77", linewidth=1.4)
    losses.set(title="Generator and discriminator loss during training", ylabel="loss")
    probabilities.plot(steps, [r.d_real for r in records], label="D(x), real", color="#1b9e77", linewidth=1.4)
    probabilities.plot(steps, [r.d_fake for r in records], label="D(G(z)), fake", color="#d95f02", linewidth=1.4)
    probabilities.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    probabilities.set(xlabel="step", ylabel="D's probability of real", ylim=(0, 1))
    for axes in (losses, probabilities):
        axes.grid(alpha=0.25)
        axes.legend(loc="center right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as file:
        figure.savefig(file, format="png")
