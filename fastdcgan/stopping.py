"""Being asked to stop, and doing so without losing anything."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(Exception):  # noqa: N818 (not an error: the user asked for it)
    """The run was asked to stop and has saved what it learned. Arguments: what to say, and the signal's number."""


@contextmanager
def stop_requests(processes: int) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the signal with which a stop was asked for, else 0.

    SIGINT and SIGTERM finish the step and save first; a second one ends at once. With several processes they end at
    once too: the ranks would have to agree on the step at which to stop.
    """
    requested = 0

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        requested = number
        signal.signal(number, before[number])

    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if processes == 1:
        for number in before:
            signal.signal(number, request)
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
