"""When to stop: all processes after the same step."""

import time
from typing import NamedTuple

from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.distributed.collectives import all_reduce_max
from fastdcgan.storage.signals import StopRequests

VOTE_SECONDS = 2.0
"""Within which several processes learn of each other's signals and faults, unless a step alone takes longer."""


class Outcome(NamedTuple):
    """Of a vote, the same on all processes."""

    signal: int
    """That any process was sent, or 0."""

    fault: bool
    """Whether any process can't go on."""


class StopVote:
    """Follows a request to stop after the step in which it comes; several processes agree on that step.

    They vote where they meet anyway, to add up their figures, or more often where steps take long. Before the first
    step is done there is nothing to save: compiling it may take minutes.
    """

    def __init__(self, accelerator: Accelerator, stop: StopRequests, step: int) -> None:
        self._accelerator, self._stop = accelerator, stop
        self._last_step, self._last_time, self._next_step = step, time.perf_counter(), step + 1

    def __call__(self, step: int, *, meeting: bool, fault: bool) -> Outcome:
        """What this process, or any of them, was asked for or has met.

        Args:
            step: the step that was just done.
            meeting: whether the processes meet after this step anyway.
            fault: whether this process can't go on.
        """
        self._stop.defer()
        if self._accelerator.num_processes == 1:
            return Outcome(self._stop(), fault)
        if not meeting and step < self._next_step:
            return Outcome(0, False)
        now = time.perf_counter()
        seconds_per_step = (now - self._last_time) / (step - self._last_step)
        signal, slowest, faults = all_reduce_max(self._accelerator, self._stop(), seconds_per_step, fault)
        self._last_step, self._last_time = step, time.perf_counter()
        self._next_step = step + max(1, int(VOTE_SECONDS / slowest))
        return Outcome(int(signal), bool(faults))
