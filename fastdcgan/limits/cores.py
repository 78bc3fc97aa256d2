"""How many of the machine's cores this process may use."""

import math
import os
from contextlib import suppress
from pathlib import Path

from fastdcgan.limits.control_groups import control_groups


def usable_cores() -> int:
    """Cores that this process may use: those of its affinity, and no more than its control groups' quota of time.

    A container of `docker run --cpus 1` sees all cores of its machine, and is stopped in each period in which it has
    used up one core's time: more threads than that wait for one another.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, _quota_in_cores(Path("/")))))


def _quota_in_cores(root: Path) -> float:
    """The smallest quota of this process's control groups and those above them, in cores; infinity if there is none.

    Args:
        root: of the file system.
    """
    return min((_quota_of(group) for group in control_groups(root, "cpu")), default=math.inf)


def _quota_of(group: Path) -> float:
    """Of one control group of version 2 or 1; infinity if it has none."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text().split()
        return int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    return math.inf
