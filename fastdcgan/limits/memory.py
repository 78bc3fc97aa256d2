"""Memory: the peak that something needs, what is in use, and garbage collection."""

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
    """The most memory in use since this object was created, less what was in use then.

    On CUDA the memory of tensors; for the CPU on Linux the process's resident memory; elsewhere unknown.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device)
        elif device.type == "cpu" and sys.platform == "linux":
            return_free_memory()  # its reuse would not be counted
            try:
                _CLEAR_REFS.write_text("5")  # resets the peak
            except OSError:
                return
            self._before = _status_kib("VmRSS")

    def mib(self) -> float | None:
        """The peak so far in MiB; None where it is unknown."""
        if self._before is None:
            return None
        if self._device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self._device) - self._before) / 2**20
        peak = _status_kib("VmHWM")
        return None if peak is None else max(0, peak - self._before) / 2**10


def return_free_memory() -> None:
    """Return freed memory to the system, where the allocator is glibc's: until then it is still resident."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # not glibc
        return


def _status_kib(name: str) -> int | None:
    """A field of /proc/self/status in KiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return None


@contextmanager
def collect_cycles_at_exit() -> Iterator[None]:
    """Free reference cycles that are created in this context when it ends.

    Python would collect them much later: with PyTorch's many objects in memory, after hundreds of megabytes of
    matplotlib figures. Collection is off within the context, so that all of them are in the youngest generation, which
    takes milliseconds to collect; all generations would take much longer.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if was_enabled:
            gc.enable()


def memory_in_use() -> dict[str, str]:
    """Memory in use now, as text: this process's, and a GPU's if one is used. Doesn't synchronise with the device."""
    found = {"memory": format_gib(psutil.Process().memory_info().rss)}
    if torch.cuda.is_initialized():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        found["GPU"] = f"{format_gib(torch.cuda.memory_reserved())} of {format_gib(total)}"
    return found


def format_gib(size: int) -> str:
    """Bytes in GiB, as "1.2 GiB"."""
    return f"{size / 2**30:.1f} GiB"
