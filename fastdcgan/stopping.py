"""Being asked to stop, and doing so without losing anything."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = tuple(int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what Slurm, Kubernetes and launchers send before they kill; what Slurm can be told to send earlier still."""

ECHO = 2.0
"""Seconds in which a repeated signal is the same request: launchers pass on what the terminal or Slurm sends to all."""


class Stopped(Exception):  # noqa: N818 (not an error: the user asked for it)
    """The run was asked to stop and has saved what it learned. Arguments: what to say, and the signal's number."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yields a function that returns the signal with which this process was first asked to stop, else 0.

    The step is finished and saved then. The same signal again, more than `ECHO` seconds later, ends the process at
    once.
    """
    requested, since = 0, 0.0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested, since
        if not requested:
            requested, since = number, time.monotonic()
        elif number == requested and time.monotonic() - since > ECHO:
            signal.signal(number, before[number])
            signal.raise_signal(number)

    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in before:
        signal.signal(number, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
