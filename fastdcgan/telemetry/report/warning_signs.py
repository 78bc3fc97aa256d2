"""Signs that a run went wrong, or could go better: in words, each with what to do."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.grids import Grid

D_WINS = 0.05
"""D's loss below which G learns next to nothing from it. A D that knows nothing pays 1.39 by `bce`."""

LOST = 0.5
"""Share of its highest diversity below which the samples have lost too much of it."""

NARROW = 0.4
"""Share of the real pictures' diversity below which the samples are far too alike."""

GROWING = 0.9
"""Share of its highest diversity from which on a run hasn't lost any."""

WAITS = 0.10
"""Share of the time that may be spent on waiting for pictures."""

_CURE = "Such a collapse is not healed by training on: take up an earlier checkpoint, or a lower --lr."
_LATELY = 10  # the last such part of a run is how it ended


@dataclass(frozen=True, kw_only=True)
class Sign:
    """Something to look at."""

    title: str
    text: str
    bad: bool = True
    """False for a mere remark."""


def lately(records: Sequence[Record]) -> Sequence[Record]:
    """The last tenth of a run, and a record at least."""
    return records[-max(1, len(records) // _LATELY) :]


def training_signs(records: Sequence[Record]) -> list[Sign]:
    """What the figures tell. None are needed."""
    if not records:
        return []
    end, signs = lately(records), []
    loss_d = mean([record.loss_d for record in end])
    if loss_d < D_WINS:
        signs.append(
            Sign(
                title="The discriminator has won",
                text=f"Its loss ended near 0 ({loss_d:.3f}): it tells all pictures apart, so the generator hardly "
                "learns any more. More pictures, --flip, --label-smoothing 0.1 or a lower --lr hold it back.",
            )
        )
    wait = mean([record.data_wait_fraction for record in records])
    if wait > WAITS:
        signs.append(
            Sign(
                title="Training waited for pictures",
                text=f"{wait:.0%} of the time. fastdcgan pack decodes them once and for all; more --data-threads "
                "decode faster.",
            )
        )
    return signs


def diversity_signs(grids: Sequence[Grid], real: float | None) -> list[Sign]:
    """What the samples tell.

    Args:
        grids: by step; that of step 0, from before any training, says nothing.
        real: the diversity of training pictures; None if unknown.
    """
    known = [(grid.step, grid.diversity) for grid in grids if grid.step > 0 and grid.diversity is not None]
    if not known:
        return []
    (best_step, best), (last_step, last) = max(known, key=lambda item: item[1]), known[-1]
    if last < LOST * best:
        return [
            Sign(
                title="The samples became alike",
                text=f"They differ from each other {1 - last / best:.0%} less at step {last_step:,} than they did at "
                f"step {best_step:,}. {_CURE}",
            )
        ]
    if real and last < NARROW * real:
        text = f"They differ from each other {last / real:.0%} as much as real pictures do. "
        if last > GROWING * best:
            text += "They may still become more different: train longer."
            return [Sign(title="The samples are still alike", text=text, bad=False)]
        return [Sign(title="The samples are alike", text=text + _CURE)]
    return []


def mean(values: Sequence[float]) -> float:
    """Of one value at least."""
    return sum(values) / len(values)
