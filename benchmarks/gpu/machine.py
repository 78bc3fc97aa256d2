"""The machine, as a reader needs it to judge a figure: device, driver, clocks, power, processor, versions, commit."""

import subprocess
from collections.abc import Callable
from importlib import metadata
from typing import Any

import psutil
import torch

FIELDS = {
    "driver_version": "driver",
    "power.limit": "power limit, W",
    "clocks.max.sm": "SM clock at most, MHz",
    "clocks.max.mem": "memory clock at most, MHz",
    "mig.mode.current": "MIG",
    "ecc.mode.current": "ECC",
    "memory.used": "MiB in use before we began",
    "utilization.gpu": "% busy before we began",
}
"""What nvidia-smi is asked for at the beginning, and what that is called on the page."""

CLOCKS = {
    "clocks.sm": "SM clock, MHz",
    "clocks.mem": "memory clock, MHz",
    "power.draw": "power, W",
    "temperature.gpu": "temperature, C",
    "clocks_event_reasons.active": "reasons for lower clocks",
}
"""The same under load."""

PACKAGES = ("triton", "nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "pytest", "numpy", "matplotlib", "tensorboard")


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What `conditions()` doesn't say. Whatever can't be found out says why."""
    facts: dict[str, Any] = {
        "memory, GiB": round(psutil.virtual_memory().total / 2**30, 1),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "missing": [name for name in ("pytest", "matplotlib", "tensorboard") if not _version(name)],
    }
    if device.type != "cuda":
        return facts
    properties = torch.cuda.get_device_properties(device)
    return facts | {
        "GPU memory, GiB": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "compute capability": f"{properties.major}.{properties.minor}",
        "CUDA of PyTorch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "GPUs": torch.cuda.device_count(),
        **nvidia_smi(FIELDS, device),
    }


def clocks_now(device: torch.device) -> dict[str, Any] | None:
    """Clocks, power and temperature at this moment; None on a CPU."""
    return nvidia_smi(CLOCKS, device) if device.type == "cuda" else None


def nvidia_smi(
    fields: dict[str, str],
    device: torch.device,
    run: Callable[[list[str]], str] | None = None,
) -> dict[str, Any]:
    """Fields of a device as nvidia-smi has them; {"nvidia-smi": why not} where it has none.

    Args:
        fields: nvidia-smi's names, and ours.
        device: a CUDA device.
        run: runs a command and returns its output.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", f"--id={_id(device)}"]
    try:
        line = (run or _output)(command).strip().splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return {"nvidia-smi": f"says nothing here: {type(error).__name__}"}
    return dict(zip(fields.values(), (value.strip() for value in line.split(",")), strict=False))


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


def _id(device: torch.device) -> str:
    """The device's name to nvidia-smi, whose numbers are not those of CUDA_VISIBLE_DEVICES."""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None) if torch.cuda.is_available() else None
    return f"GPU-{uuid}" if uuid else str(device.index or 0)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
