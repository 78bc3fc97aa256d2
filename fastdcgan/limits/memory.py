"""How much memory something needs at its peak, and how much is in use."""

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Memory in use at the most since this was made, above what was in use then.

    On CUDA what tensors take; on Linux the process's resident memory; elsewhere unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif device.type == "cpu" and sys.platform == "linux":
            _return_free_memory()
            try:
                _CLEAR_REFS.write_text("5")  # the peak begins anew
            except OSError:
                return
            self._before = _kib("VmRSS")

    def mib(self) -> float | None:
        """The peak so far, or None where it can't be known."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._before) / 2**20
        peak = _kib("VmHWM")
        return None if peak is None else max(0, peak - self._before) / 2**10


def _return_free_memory() -> None:
    """What was freed may still be resident, and would be used again without being counted."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        return


def _kib(name: str) -> int | None:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


@contextmanager
def no_garbage_left() -> Iterator[None]:
    """What is made in here, and only refers to itself in the end, is freed at the end.

    Python would find it in its own time: with PyTorch's many objects around, after hundreds of megabytes of figures.
    Nothing is collected meanwhile, so that all of it is young: to find that takes milliseconds, all objects many more.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if was_enabled:
            gc.enable()


def in_use() -> dict[str, str]:
    """Memory that is taken now, in words: this process's, and a GPU's if one is used. The device isn't waited for."""
    found = {"memory": gib(psutil.Process().memory_info().rss)}
    if torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        found["GPU"] = f"{gib(torch.cuda.memory_reserved())} of {gib(total)}"
    return found


def gib(size: int) -> str:
    """Bytes in GiB, as "1.2 GiB"."""
    return f"{size / 2**30:.1f} GiB"
