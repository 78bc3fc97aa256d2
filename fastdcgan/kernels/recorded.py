"""Calls that a recording of a step repeats as a whole: those of our kernels, and those that wait for other processes.

`execution/cpu_graph.py` records PyTorch's operators by itself; what it can't see as such is reported to it here.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from torch import Tensor

Report = Callable[[Callable[..., None], str, Sequence[object]], AbstractContextManager[None]]
"""Is given a function, a kernel's name or "", and the arguments. In it the function is called: its operators are not
recorded."""

_recording = threading.local()


@contextmanager
def reported_to(report: Report) -> Iterator[None]:
    """In it each such call of this thread is reported."""
    _recording.report = report
    try:
        yield
    finally:
        _recording.report = None


def reported(function: Callable[..., None], name: str, arguments: Sequence[object]) -> AbstractContextManager[None]:
    """In it the function is to be called with these arguments."""
    report: Report | None = getattr(_recording, "report", None)
    return nullcontext() if report is None else report(function, name, arguments)


def call(function: Callable[..., None], *tensors: Tensor) -> None:
    """Call a function that reads and writes these tensors, and whose operators are not to be recorded."""
    with reported(function, "", tensors):
        function(*tensors)
