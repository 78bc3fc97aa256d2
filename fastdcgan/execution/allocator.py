"""Memory allocation on the CPU: keeping freed memory in the process, or not, on Linux with glibc."""

import ctypes
import mmap
import sys
from contextlib import suppress

import torch

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation, for the rest of this process's life.

    By default every large tensor is mapped and unmapped, and the system clears each of its pages at the first access:
    on some machines a fifth of a training step. A step allocates what the one before it freed, so the peak is the same.

    Returns:
        whether it is set: False where the allocator isn't glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
        return all(mallopt(parameter, value) == 1 for parameter, value in settings)
    return False


def block(size: int) -> torch.UntypedStorage:
    """Zeros, of `size` bytes, in huge pages where the system has them: the processor looks up fewer addresses."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(size, dtype=torch.uint8).untyped_storage()
    mapping = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them
        mapping.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(mapping, dtype=torch.uint8).untyped_storage()


def release_freed_memory() -> None:
    """Return what is free at this moment to the system, where the allocator is glibc's."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
