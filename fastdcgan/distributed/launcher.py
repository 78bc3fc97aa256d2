"""What `accelerate launch` asks for besides processes: what the plan overrules, and what can't be done.

Its options and its `default_config.yaml` reach us as environment variables, which `Accelerator` would heed by itself:
it would compile networks that the plan has compiled, or shard them. Precision, compilation and accumulation are the
plan's and the recipe's here. What asked for something else is named in a line.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan

_PREFIX = "ACCELERATE_"
_HEEDED = {f"{_PREFIX}{name}" for name in ("CPU_AFFINITY", "DEBUG_MODE", "DEBUG_RDV_FILE", "LOG_LEVEL", "ENABLE_RICH")}
"""What `Accelerator` may know of: where processes run, and what it says."""

_UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
"""Ways to divide a network that is too large for a device, by the variables that ask for them."""


def check_launcher(environ: Mapping[str, str] = os.environ) -> None:
    """Raises ValueError, with the command to use instead, for what can't be done at all."""
    for variable, what in _UNSUPPORTED.items():
        if _is_true(environ.get(variable, "")):
            raise ValueError(
                f"the launcher asks for {what}, which divides networks that are too large for one device; a DCGAN is "
                f"whole on each, and --accumulate saves memory: {_command(environ)}"
            )
    kind = environ.get("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO")
    if _is_true(environ.get("ACCELERATE_USE_SAGEMAKER", "")) and kind != "NO":
        raise ValueError(f"the launcher asks for SageMaker's {kind}, which is not PyTorch's DDP: {_command(environ)}")


def launch_command(processes: int, machines: int = 1) -> str:
    """How to start so many processes, whatever `default_config.yaml` says. The options of `train` come after it."""
    if processes == 1:
        return "fastdcgan train"
    several = f" --num_machines {machines}" if machines > 1 else ""
    return f"accelerate launch --multi_gpu --num_processes {processes}{several} -m fastdcgan train"


def _command(environ: Mapping[str, str]) -> str:
    processes = int(environ.get("WORLD_SIZE", 1))
    return launch_command(processes, processes // int(environ.get("LOCAL_WORLD_SIZE", processes)))


def overruled_settings(
    request: ExecutionConfig, plan: Plan, accumulate: int, environ: Mapping[str, str] = os.environ
) -> list[str]:
    """Settings of the launcher that differ from what is done, a line each: what they say, and the option of ours.

    Args:
        request: what was asked of us.
        plan: how steps are executed.
        accumulate: parts of a batch.
        environ: what the launcher has left.
    """

    def said(name: str, default: str) -> str:
        return environ.get(_PREFIX + name) or default

    lines = []
    backend = said("DYNAMO_BACKEND", "no").lower()
    if backend not in ("no", plan.backend):
        compiled = f"networks are compiled by {plan.backend}" if plan.backend else "nothing is compiled"
        lines.append(f"dynamo_backend {backend.upper()}: {compiled}, as the plan says (--compile on, step or off)")
    precision = said("MIXED_PRECISION", "no")
    if precision not in ("no", plan.precision):
        lines.append(f"mixed_precision {precision}: the plan computes in {plan.precision} (--precision)")
    parts = said("GRADIENT_ACCUMULATION_STEPS", "1")
    if parts not in ("1", str(accumulate)):
        lines.append(f"gradient_accumulation_steps {parts}: a batch is taken in {accumulate} (--accumulate)")
    if wants_cpu(environ) and request.device not in ("auto", "cpu"):
        lines.append(f"use_cpu: this runs on --device {request.device}")
    device = said("TORCH_DEVICE", "")
    if device and device != request.device:
        lines.append(f"{_PREFIX}TORCH_DEVICE {device}: a device is chosen by --device {device}")
    return lines


def wants_cpu(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the launcher was told to use the CPU though there may be GPUs."""
    return _is_true(environ.get("ACCELERATE_USE_CPU", ""))


def configured_environment() -> dict[str, str]:
    """What `accelerate launch` without options would set, by the user's `default_config.yaml`; empty without one.

    Raises whatever Accelerate does where it can't read the file.
    """
    from accelerate.commands.config import config_args  # takes a second to import

    if not Path(config_args.default_config_file).is_file():
        return {}
    settings = config_args.load_config_from_file(None).to_dict()
    kind = settings.get("distributed_type", "NO")
    found = {
        "WORLD_SIZE": settings.get("num_processes"),
        "ACCELERATE_MIXED_PRECISION": settings.get("mixed_precision"),
        "ACCELERATE_DYNAMO_BACKEND": (settings.get("dynamo_config") or {}).get("dynamo_backend"),
        "ACCELERATE_USE_CPU": settings.get("use_cpu") or None,
        f"ACCELERATE_USE_{kind}": True if kind in ("DEEPSPEED", "FSDP", "MEGATRON_LM") else None,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


@contextmanager
def hidden_settings() -> Iterator[None]:
    """Within this, `Accelerator` doesn't see the launcher's settings but those that are heeded."""
    hidden = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_PREFIX) and name not in _HEEDED
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _is_true(value: str) -> bool:
    """As Accelerate reads them."""
    return value.lower() in ("1", "true", "yes", "y", "t", "on")
