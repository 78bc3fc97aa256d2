"""How this process's allocator treats memory that was freed, on Linux with glibc."""

import ctypes
import sys
from contextlib import suppress

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Keep freed memory for the next allocation, for the rest of this process's life.

    By default every large tensor is mapped when it is made and unmapped when it is freed, and the system clears each of
    its pages at the first touch: on some machines a fifth of a training step. A step allocates what the one before it
    freed, so keeping costs no more than the peak.

    Returns:
        whether the allocator took it: False where it isn't glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
        return all(mallopt(parameter, value) == 1 for parameter, value in settings)
    return False
