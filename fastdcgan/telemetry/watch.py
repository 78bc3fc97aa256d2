"""Signs that a run goes wrong, told while it runs. The report has the same of the whole run (`run_warnings.py`)."""

from collections import deque
from statistics import fmean

from torch import Tensor

from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.report.run_warnings import COLLAPSED_SHARE, MIN_LOSS_D, TRIED

LOSS_STEPS = 200
"""Over which D's loss has to be small in the mean: it often is for a few steps."""

RECOVERED, RECOVERED_SHARE = 2, 0.75
"""A sign is told again only after D's loss was above so many limits, diversity above this: they may hover about it."""


class Watch:
    """Follows the figures and samples of a run; each sign is told once, when it begins.

    Args:
        least_loss_d: below it D wins.
    """

    def __init__(self, least_loss_d: float = MIN_LOSS_D) -> None:
        self._least_loss_d = least_loss_d
        self._records: deque[Record] = deque()
        self._first_step: int | None = None
        self._d_has_won = self._collapsed = False
        self._highest, self._highest_step = 0.0, 0

    def record(self, record: Record) -> str | None:
        """Take in new figures. Returns a line for the user where D has begun to win."""
        if self._first_step is None:
            self._first_step = record.step
        self._records.append(record)
        while record.step - self._records[0].step >= LOSS_STEPS:
            self._records.popleft()
        if record.step - self._first_step < LOSS_STEPS:
            return None
        loss_d = fmean(one.loss_d for one in self._records)
        if self._d_has_won:
            self._d_has_won = loss_d < RECOVERED * self._least_loss_d
        elif loss_d < self._least_loss_d:
            self._d_has_won = True
            return f"D wins: its loss is {loss_d:.3f} in the mean of the last {LOSS_STEPS} steps; {TRIED}"
        return None

    def samples(self, pictures_BCHW: Tensor, step: int, columns: int | None = None) -> str | None:
        """Take in samples, in [-1, 1] on the CPU. Returns a line for the user where they have become alike.

        Args:
            pictures_BCHW: the samples.
            step: after which they were made.
            columns: of a grid that has a row for each class: samples are compared within a class. None: all are.
        """
        if step == 0 or len(pictures_BCHW) < 2:  # from before any training
            return None
        differ = fmean(map(spread, pictures_BCHW.split(columns or len(pictures_BCHW))))
        if differ > self._highest:
            self._highest, self._highest_step = differ, step
        if self._collapsed:
            self._collapsed = differ < RECOVERED_SHARE * self._highest
        elif differ < COLLAPSED_SHARE * self._highest:
            self._collapsed = True
            return (
                f"the samples became alike: at step {step:,} they differ {1 - differ / self._highest:.0%} less than at "
                f"step {self._highest_step:,}; {TRIED}"
            )
        return None


def spread(pictures_BCHW: Tensor) -> float:
    """The standard deviation over the pictures, averaged over pixels, as a share of the range from black to white."""
    return float(pictures_BCHW.std(0, correction=0).mean() / 2)
