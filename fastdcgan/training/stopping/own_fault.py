"""A process's own fault, which it keeps from the others until the next vote: see `fault.py`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from fastdcgan.runs.checkpoints.checkpoint import Snapshot
from fastdcgan.runs.folder import WriteError
from fastdcgan.training.run import Run
from fastdcgan.training.stopping.fault import Fault


class OwnFault:
    """What keeps this process from going on. A single process keeps nothing: it raises."""

    def __init__(self, run: Run) -> None:
        self._alone = run.accelerator.num_processes == 1
        self.met: Fault | None = None
        self.whole: Snapshot | None = None
        """What was learned before pictures were lost; None: nothing was lost, or it was not finite."""

    @property
    def lacks_pictures(self) -> bool:
        """Whether this process takes blank ones."""
        return self.met is not None and self.met.whole_step is not None

    def keep(self, error: ValueError, whole_step: int | None = None) -> None:
        """Remember an error, of which the first one's message stays; or raise it.

        Args:
            error: what went wrong.
            whole_step: the last step for which there were pictures, where they are lost.
        """
        if self._alone:
            raise error
        if self.met is None:
            self.met = Fault(message=str(error), whole_step=whole_step)
        elif whole_step is not None:
            self.met = replace(self.met, whole_step=whole_step)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Remember an error of writing. A single process raises it."""
        try:
            yield
        except WriteError as error:
            self.keep(error)


def blank_batch(run: Run) -> tuple[Tensor, ...]:
    """This process's share of a step without its pictures: real_BCHW; and labels_B, where classes are learned."""
    each = run.config.images_a_step // run.accelerator.num_processes
    blank_BHWC = torch.zeros(each, *run.arch.resolution, run.arch.channels, device=run.accelerator.device)
    blank_BCHW = blank_BHWC.permute(0, 3, 1, 2)  # channels-last, as others are
    if run.labels is None:
        return (blank_BCHW,)
    return blank_BCHW, torch.zeros(each, dtype=torch.int64, device=run.accelerator.device)
