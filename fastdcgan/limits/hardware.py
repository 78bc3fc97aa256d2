"""The machine's hardware by name: cached measurements are valid for it alone."""

import os
import platform
from pathlib import Path

import torch

from fastdcgan.limits.cores import usable_cores

_CPUS = Path("/sys/devices/system/cpu")


def describe_hardware(device: torch.device) -> dict[str, str | int]:
    """The device's model; for a CPU also its instruction set, and the numbers of usable cores and of threads."""
    if device.type == "cuda":
        return {"gpu": torch.cuda.get_device_name(device)}
    if device.type == "mps":
        return {"gpu": cpu_model()}  # one chip
    return {
        "cpu": cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
    }


def physical_cores() -> int | None:
    """Physical cores of the whole machine, without hyper-threads; None if unknown."""
    count = torch.cpu.get_capabilities().get("num_physical_cores")
    return count if isinstance(count, int) and count > 0 else None


def third_level_cache(threads: int) -> int | None:
    """Bytes of third-level cache that this many threads can use at most; None if the system knows of none.

    Each group of cores may have one of its own; a thread uses one. Virtual machines often hide it.
    """
    sizes: dict[str, int] = {}  # by the CPUs that share it
    try:
        for cpu in os.sched_getaffinity(0):
            for index in (_CPUS / f"cpu{cpu}" / "cache").glob("index*"):
                if (index / "level").read_text().strip() == "3":
                    kib = int((index / "size").read_text().strip().removesuffix("K"))
                    sizes[(index / "shared_cpu_list").read_text()] = kib * 2**10
    except (AttributeError, OSError, ValueError):  # not Linux, or a Linux that doesn't say
        return None
    return sum(sorted(sizes.values())[-threads:]) or None


def cpu_model() -> str:
    """The CPU's model name, as the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
