"""Under which conditions was it measured? A number without them can't be repeated."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastdcgan import __version__
from fastdcgan.limits.cores import usable_cores
from fastdcgan.limits.hardware import cpu_model

ROOT = Path(__file__).parents[1]

ALLOCATOR_SETTINGS = ("THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES", "MALLOC_", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables, or how their names begin, that change how memory is taken."""

THREAD_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_NUM_THREADS")
"""The same for threads."""


def conditions() -> dict[str, Any]:
    """Everything about this machine, these packages and this moment that a speed depends on; ready for JSON."""
    where = device()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "device": str(where),
        "cpu": cpu_model(),
        "gpu": torch.cuda.get_device_name() if where.type == "cuda" else None,
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "load_average": load_average(),
        "huge_pages": huge_pages(),
        "allocator": environment(ALLOCATOR_SETTINGS),
        "thread_settings": environment(THREAD_SETTINGS),
        "system": platform.platform(terse=True),
    }


def device() -> torch.device:
    """Where everything is timed: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cores() -> int:
    """How many this process may use."""
    return usable_cores()


def versions() -> dict[str, str]:
    """Of Python and of the packages that do the work."""
    found = {distribution.name.lower(): distribution.version for distribution in metadata.distributions()}
    dali = next((version for name, version in found.items() if name.startswith("nvidia-dali-cuda")), "not installed")
    packages = {name: found.get(name, "?") for name in ("torch", "torchvision", "accelerate")}
    ours = {"python": platform.python_version(), "fastdcgan": __version__}  # which need not be installed
    return ours | packages | {"dali": dali}


def load_average() -> float | None:
    """Processes that wanted a core over the last minute, ours among them; well above the cores, others were at work."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def huge_pages() -> str | None:
    """Linux's policy for transparent huge pages: always, madvise or never."""
    policy = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    try:
        return policy.read_text().partition("[")[2].partition("]")[0]
    except OSError:
        return None


def environment(beginnings: tuple[str, ...]) -> dict[str, str]:
    """The variables whose names begin with one of these."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(beginnings)}


def commit() -> str:
    """The commit of this working tree, with a mark if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
