"""Whether a step fits into memory: said before it is tried, and when it has failed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import psutil
import torch

from fastdcgan.config import TrainConfig
from fastdcgan.device import total_memory
from fastdcgan.gan.architecture import Architecture
from fastdcgan.limits.memory import format_gib
from fastdcgan.limits.step_memory import StepMemory, memory_limit

_CERTAIN = 0.85
"""A step takes at least this of what `StepMemory` estimates: it is refused where not even that is to be had."""

_COMFORTABLE = 0.9
"""How much of the memory an advised step may fill."""

_ALLOCATION_FAILED = ("DefaultCPUAllocator: ", "std::bad_alloc", "not enough memory: ")
"""How PyTorch says that the system has no more memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryDemand:
    """What a run's steps need of a machine's memory, and what would fit."""

    config: TrainConfig
    arch: Architecture
    device: torch.device
    processes: int
    local_processes: int
    """How many of them share this machine's memory; a GPU is one's own."""

    def check(self) -> str:
        """Compare what steps on a CPU take with what may be had: beyond a container's limit the process is killed.

        Returns:
            a line for the user where they may not fit beside what else is in use; empty if they do.

        Raises:
            ValueError: they can't fit; with the largest batch that does, or the parts to take it in.
        """
        if self.device.type != "cpu":
            return ""
        needed, limit = self._memory(self._share, self._parts) * self.local_processes, memory_limit()
        if _CERTAIN * needed > limit:
            raise ValueError(
                f"{self._step} takes about {format_gib(needed)} of memory, more than the {format_gib(limit)} that can "
                f"be had here: {self._advice(limit)}"
            )
        free = psutil.virtual_memory().available
        return f"a step takes about {format_gib(needed)}, and {format_gib(free)} are free" if needed > free else ""

    @contextmanager
    def failures_as_one_line(self) -> Iterator[None]:
        """In here a failed allocation becomes a ValueError that says what would fit. Checkpoints are as they were."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise ValueError(self._failure) from error
        except RuntimeError as error:
            if not any(words in str(error) for words in _ALLOCATION_FAILED):
                raise
            raise ValueError(self._failure) from error

    @property
    def _failure(self) -> str:
        limit = memory_limit() if self.device.type == "cpu" else total_memory(self.device)
        advice = self._advice(limit) if limit else "a smaller --batch-size or more parts (--accumulate) may fit"
        return f"{self._step} does not fit into the memory of {self.device}: {advice}"

    def _advice(self, limit: int) -> str:
        """The largest batch in `limit` bytes a machine or GPU, and the fewest parts in which the batch would fit."""
        each = _COMFORTABLE * limit / (self.local_processes if self.device.type == "cpu" else 1)
        unit = math.lcm(self.processes, self.config.execution.exact_ranks or 1) * self._parts
        batch = self._memory.largest_batch(each, self._parts) * self.processes // unit * unit
        parts = self._memory.least_accumulate(self._share, each) if self.config.execution.exact_ranks is None else 0
        ways = [f"--batch-size {batch}"] if 0 < batch < self._share * self.processes else []
        ways += [f"--accumulate {parts}"] if parts > self._parts else []
        return f"{' or '.join(ways)} should fit" if ways else "only smaller networks (--width, --resolution) would"

    @cached_property
    def _memory(self) -> StepMemory:
        # What `auto` will be isn't known yet; fp32 takes more.
        fp32 = self.config.execution.precision in ("auto", "fp32")
        return StepMemory.of(self.arch, on_cpu=self.device.type == "cpu", fp32=fp32)

    @property
    def _share(self) -> int:
        return cast(int, self.config.data.batch_size) // self.processes

    @property
    def _parts(self) -> int:
        return self.config.recipe.accumulate

    @property
    def _step(self) -> str:
        parts = f" --accumulate {self._parts}" if self._parts > 1 else ""
        return f"a step of --batch-size {self.config.data.batch_size}{parts}"
