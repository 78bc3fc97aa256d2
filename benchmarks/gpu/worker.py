"""A part of the proof in a process of its own: `python -m benchmarks.gpu.worker PART REQUEST.json JOURNAL`.

A kernel that faults takes its process's CUDA context with it, and a compilation can hang: neither may cost the other
parts. `supervisor.py` is the other end.
"""

import gc
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from benchmarks.contenders import finisher
from benchmarks.gpu.journal import Journal, one_line


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a worker is asked for."""

    device: str
    seconds: float
    """After so long nothing new is begun."""

    skip: list[str] = field(default_factory=list)
    """Items that have been dealt with."""

    attempt: int = 1
    """Counts the processes that were begun for this part."""

    refused: list[str] = field(default_factory=list)
    """Plans that don't compute what the reference computes, as "dcgan64: bf16 + stacked": they are not timed."""


USUAL_COMPILED_SECONDS = 20.0
"""Of the first step of something that compiles, where none has been seen yet."""


class ContextLostError(Exception):
    """The device answers this process no more."""


class Work:
    """What a part has at hand: the device, the journal, and how much time is left.

    Args:
        request: what is asked for.
        journal: where results go.
        clock: tells seconds; the time begins now.
        say: told what is done, in a line.
    """

    def __init__(
        self,
        request: Request,
        journal: Journal,
        clock: Callable[[], float] = time.perf_counter,
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.request, self.journal, self.clock, self.say = request, journal, clock, say
        self.device = torch.device(request.device)
        self._end = clock() + request.seconds
        self._slowest_compiled = USUAL_COMPILED_SECONDS

    @property
    def left(self) -> float:
        """Seconds; never less than 0."""
        return max(0.0, self._end - self.clock())

    def has_time_for(self, *, compiled: bool) -> bool:
        """Whether something may be begun: what compiles only if the slowest so far would still end in time."""
        return self.left > (self._slowest_compiled if compiled else 0.0)

    def compiled_in(self, seconds: float) -> None:
        """How long something took that compiles."""
        self._slowest_compiled = max(self._slowest_compiled, seconds)

    @contextmanager
    def item(self, name: str) -> Iterator[None]:
        """One item: what is raised in here is written down as its failure, and goes no further.

        Raises:
            ContextLostError: the device answers no more, so that nothing else can be done in this process.
        """
        self.journal.begin(name)
        try:
            yield
        except Exception as error:  # noqa: BLE001 (the other items go on)
            self.failed(name, error)

    def failed(self, name: str, error: Exception) -> None:
        """Write a failure down. Raises ContextLostError as `item` does."""
        self.journal.fail(name, one_line(error))
        self.say(f"  failed: {name}: {one_line(error)}")
        try:
            finisher(self.device)()
        except Exception as lost:  # noqa: BLE001 (any answer but a good one)
            raise ContextLostError(f"after {name}: {one_line(lost)}") from error


def free_memory(device: torch.device, *, compiled: bool) -> None:
    """Give back what nothing uses, on the device too; forget compiled code, of which the compiler keeps few variants.

    Args:
        device: whose memory.
        compiled: whether anything was: resetting the compiler means loading it, which takes seconds.
    """
    if compiled:
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def write_request(request: Request, path: Path) -> None:
    """For the worker to read."""
    path.write_text(json.dumps(asdict(request)), encoding="utf-8")


def main(part: str, request: str, journal: str) -> None:
    """Do a part."""
    from benchmarks.gpu.launches import count_all
    from benchmarks.gpu.plan_parity import check_all
    from benchmarks.gpu.speed import time_all

    asked = Request(**json.loads(Path(request).read_text(encoding="utf-8")))
    work = Work(asked, Journal(Path(journal)))
    {"parity": check_all, "speed": time_all, "launches": count_all}[part](work)


if __name__ == "__main__":
    main(*sys.argv[1:])
