"""A probe of what `accelerate launch` would ask for, from its configuration and from the environment."""

import os
from collections.abc import Mapping

from fastdcgan.doctor.finding import Finding

_SHOWN = (
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "FASTDCGAN_ISA", "CXX"),
    *("ACCELERATE_MIXED_PRECISION", "ACCELERATE_DYNAMO_BACKEND", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"),
    *("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "PYTORCH_CUDA_ALLOC_CONF"),
)
"""Variables that change how training runs, and hold no names of people or hosts."""


def launcher() -> Finding:
    """How processes would be started, and which of the launcher's settings can't be or are not heeded."""
    from fastdcgan.distributed.launcher import check_launcher, configured_environment

    said = [f"{name}={os.environ[name]}" for name in _SHOWN if name in os.environ]
    configured = configured_environment()
    shown = ", ".join(f"{name.removeprefix('ACCELERATE_')}={value}" for name, value in configured.items())
    parts = [
        f"default_config.yaml of accelerate: {shown}" if configured else "no default_config.yaml of accelerate",
        ", ".join(said) or "nothing in the environment",
    ]
    refused = ""
    for environ in (os.environ, configured):
        try:
            check_launcher(environ)
        except ValueError as error:
            refused = refused or str(error)
    overruled = _overruled(os.environ) or _overruled(configured)
    return Finding(
        topic="launcher",
        found="; ".join(parts),
        advice=refused or (f"overruled by the plan: {'; '.join(overruled)}" if overruled else ""),
    )


def _overruled(environ: Mapping[str, str]) -> list[str]:
    from fastdcgan.config import ExecutionConfig
    from fastdcgan.distributed.accelerator import with_launcher_precision
    from fastdcgan.distributed.launcher import overruled_settings
    from fastdcgan.doctor.measuring import default_device
    from fastdcgan.execution.plan import choose_plan

    request = with_launcher_precision(ExecutionConfig(), environ)
    return overruled_settings(request, choose_plan(request, default_device()), 1, environ)
