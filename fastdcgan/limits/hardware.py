"""The machine's hardware by name: cached measurements are valid for it alone."""

import platform
from pathlib import Path

import torch

from fastdcgan.limits.cores import usable_cores


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


def cpu_model() -> str:
    """The CPU's model name, as the system has it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
