"""Warnings in a report: signs in the figures and samples that a run went wrong, each with advice."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from fastdcgan.gan.objectives import RELATIVISTIC
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.grids import Grid
from fastdcgan.telemetry.report.nearest import Nearest

MIN_LOSS_D = 0.05
"""D's loss below which G learns next to nothing from it. A D that only guesses has 1.39 by `bce`."""

MIN_LOSS_D_OF_PAIRS = 0.005
"""The same by a loss of pairs, by which dcgan64's pictures still got better at 0.01 (docs/recipes.md)."""

COLLAPSED_SHARE = 0.5
"""Of the highest diversity so far: below, the samples have collapsed."""

LOW_SHARE_OF_REAL = 0.4
"""Of the real pictures' diversity: below, the samples are far too alike."""

RISING_SHARE = 0.9
"""Of the highest diversity so far: above, it hasn't fallen."""

MANY_COPIES = 0.1
"""Of the samples: a warning from here on."""

MAX_WAIT_SHARE = 0.10
"""Of the time: how much may be spent waiting for pictures."""

TRIED = "a lower --lr helped where it was tried"
"""Advice for both: docs/quality.md has the runs."""

_COLLAPSE = "Such a collapse is not healed by training on."


@dataclass(frozen=True, kw_only=True)
class RunWarning:
    """A warning in the report."""

    title: str
    text: str
    bad: bool = True
    """False for a mere note."""


def min_loss_d(objective: object) -> float:
    """The limit for an objective, by its name in config.json."""
    return MIN_LOSS_D_OF_PAIRS if objective in RELATIVISTIC else MIN_LOSS_D


def last_tenth(records: Sequence[Record]) -> Sequence[Record]:
    """The last tenth of the records, which shows how a run ended; one at least."""
    return records[-max(1, len(records) // 10) :]


def training_warnings(records: Sequence[Record], least_loss_d: float = MIN_LOSS_D) -> list[RunWarning]:
    """Warnings from the figures, D's loss against this limit; none without records."""
    if not records:
        return []
    warnings = []
    loss_d = fmean(record.loss_d for record in last_tenth(records))
    if loss_d < least_loss_d:
        warnings.append(
            RunWarning(
                title="The discriminator has won",
                text=f"Its loss ended near 0 ({loss_d:.3f}): it tells all pictures apart, so the generator hardly "
                f"learns any more. A new run in another --out: {TRIED}; --label-smoothing did not.",
            )
        )
    wait = fmean(record.data_wait_fraction for record in records)
    if wait > MAX_WAIT_SHARE:
        warnings.append(
            RunWarning(
                title="Training waited for pictures",
                text=f"{wait:.0%} of the time. fastdcgan pack decodes them once and for all; more --data-threads "
                "decode faster.",
            )
        )
    return warnings


def diversity_warnings(
    grids: Sequence[Grid], real: float | None, *, out: str = "", saved: Sequence[int] = ()
) -> list[RunWarning]:
    """Warnings from the samples.

    Args:
        grids: by step. That of step 0, from before any training, is ignored.
        real: the diversity of training pictures; None if unknown.
        out: the run's folder, for advice.
        saved: the steps of its checkpoints.
    """
    known = [(grid.step, grid.diversity) for grid in grids if grid.step > 0 and grid.diversity is not None]
    if not known:
        return []
    (best_step, best), (last_step, last) = max(known, key=lambda item: item[1]), known[-1]
    if last < COLLAPSED_SHARE * best:
        return [
            RunWarning(
                title="The samples became alike",
                text=f"They differ from each other {1 - last / best:.0%} less at step {last_step:,} than they did at "
                f"step {best_step:,}. {_COLLAPSE} {_way_back(best_step, out, saved)}",
            )
        ]
    if real and last < LOW_SHARE_OF_REAL * real:
        text = f"They differ from each other {last / real:.0%} as much as real pictures do. "
        if last > RISING_SHARE * best:
            text += "They may still become more different: train longer."
            return [RunWarning(title="The samples are still alike", text=text, bad=False)]
        return [RunWarning(title="The samples are alike", text=f"{text}{_COLLAPSE} {_begin_anew()}")]
    return []


def copy_warnings(nearest: Nearest | None) -> list[RunWarning]:
    """A warning where many samples are copies of training pictures."""
    if nearest is None or nearest.copies < MANY_COPIES * nearest.samples:
        return []
    return [
        RunWarning(
            title="The generator repeats training pictures",
            text=f"{nearest.copies} of {nearest.samples} samples are copies, of {nearest.pictures:,} pictures: see "
            "below. More pictures, --flip and --augment colour,translation,cutout are the usual remedies; not tried.",
        )
    ]


def _way_back(step: int, out: str, saved: Sequence[int]) -> str:
    """What to do about a run that was better at a step. Gone back to alone, it would take the same steps again."""
    earlier = [one for one in saved if one <= step]
    if not earlier:
        return f"No checkpoint of that time is left, which --keep-every would keep. {_begin_anew()}"
    return f"To go back, give the same command with --out {out} --from-step {max(earlier)} and a lower --lr."


def _begin_anew() -> str:
    return "Begin a new run with a lower --lr in another --out."
