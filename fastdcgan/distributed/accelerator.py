"""Joining the processes of a run through Hugging Face Accelerate: device, process group, threads, DDP.

Accelerate finds the device, joins the processes that a launcher started, and wraps networks for DDP. Precision,
compilation and gradient scaling are the plan's, so that they are the same with and without a launcher.
"""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    is_torch_xla_available,
    patch_environment,
)
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from fastdcgan.config import ExecutionConfig, PrecisionRequest
from fastdcgan.distributed.launcher import check_launcher, hidden_settings, wants_cpu
from fastdcgan.execution import exact_sums
from fastdcgan.limits.cores import usable_cores

__all__ = [
    "Accelerator",
    "apart_from_the_program",
    "default_threads",
    "join",
    "start_tracker",
    "with_launcher_precision",
    "wrap",
]

SEVERAL_BUCKETS = 25
"""MiB of gradients that cross together, DDP's default, which also sends the first one at 1 MiB: a network of more than
that is on its way while the rest of it is still computed."""

ONE_BUCKET = 1024
"""On a CPU nothing is hidden: the cores that compute are those that carry. So a network's gradients cross at once."""


def join(request: ExecutionConfig) -> Accelerator:
    """Take our place among the processes of this run: one of one, unless a launcher says otherwise.

    Raises:
        ValueError: if that can't be done, in one line.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    check_launcher()
    if is_torch_xla_available():
        raise ValueError(
            "torch_xla is installed, and Accelerate would train through it, on a TPU, which this can't: put "
            "USE_TORCH_XLA=0 before the command"
        )
    _check_device(request, world_size)
    # Without a word from us Accelerate joins processes only where there are GPUs: on a CPU each would run alone.
    on_cpu = (
        request.device == "cpu" or (request.device == "auto" and wants_cpu()) or not torch.accelerator.is_available()
    )
    one_of_several = {"ACCELERATE_TORCH_DEVICE": request.device} if ":" in request.device else {}
    if world_size > 1 and not on_cpu:
        _check_backend(int(os.environ.get("LOCAL_RANK", 0)))
    # D's buffers must not be broadcast inside its second forward of a step: that would change, in place, what the first
    # one's backward needs. Synchronised ones are the same on all ranks; of local ones rank 0's are saved.
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        bucket_cap_mb=ONE_BUCKET if on_cpu else SEVERAL_BUCKETS,
        gradient_as_bucket_view=True,
        comm_hook=DDPCommunicationHookType(request.compress_gradients.replace("off", "no")),
    )
    group = InitProcessGroupKwargs(timeout=timedelta(seconds=request.rank_timeout))
    try:
        with hidden_settings(), patch_environment(**one_of_several):
            accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[ddp, group])
    except distributed.DistError as error:
        raise ValueError(_why_not_joined(error)) from error
    assert accelerator.num_processes == world_size, (accelerator.num_processes, world_size)
    if one_of_several:
        torch.cuda.set_device(accelerator.device)  # for what takes the current one
    if accelerator.device.type == "cpu":
        torch.set_num_threads(request.threads or default_threads())
    return accelerator


@contextmanager
def apart_from_the_program() -> Iterator[None]:
    """Let a program `join` more than once, on another device too, and keep an `Accelerator` and threads of its own.

    Accelerate has one state a process, and the first `Accelerator` decides the device of all later ones. Several
    processes have joined for good: there all is left as it is.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        yield
        return
    states = [kind._shared_state for kind in (PartialState, AcceleratorState, GradientState)]
    former, threads = [dict(state) for state in states], torch.get_num_threads()
    for state in states:
        state.clear()
    try:
        yield
    finally:
        for state, content in zip(states, former, strict=True):
            state.clear()
            state.update(content)
        torch.set_num_threads(threads)


def wrap(accelerator: Accelerator, network: nn.Module, in_one_order: bool = False) -> nn.Module:
    """The network in DDP, if there are several processes. `in_one_order`: gradients add up as in `exact_sums`."""
    with warnings.catch_warnings():
        # PyTorch 2.14 has a new name for `broadcast_buffers` that Accelerate 1.15 can't pass on yet.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped: nn.Module = accelerator.prepare_model(network)
    if in_one_order and isinstance(wrapped, DistributedDataParallel):
        wrapped.register_comm_hook(None, exact_sums.all_reduce_hook)
    return wrapped


def start_tracker(service: str, project: str, /, **settings: Any) -> GeneralTracker:
    """Accelerate's tracker of a service, started. Raises whatever the service's own client does."""
    tracker: GeneralTracker = LOGGER_TYPE_TO_CLASS[service](project, **settings)
    tracker.start()
    return tracker


def with_launcher_precision(request: ExecutionConfig, environ: Mapping[str, str] = os.environ) -> ExecutionConfig:
    """The request, with the precision that `accelerate launch --mixed_precision` asked for where it has none."""
    said = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if request.precision == "auto" and said in ("bf16", "fp16"):
        return replace(request, precision=cast(PrecisionRequest, said))
    return request


def default_threads() -> int:
    """Threads for this process's arithmetic: OMP_NUM_THREADS, else its share of the cores.

    Launchers set OMP_NUM_THREADS to 1 if nobody else has, which would leave all cores but one idle.
    """
    said = os.environ.get("OMP_NUM_THREADS", "")
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if said.isdecimal() and int(said) > 0 and not (launched and said == "1"):
        return int(said)
    return max(1, usable_cores() // local_processes())


def local_processes() -> int:
    """How many processes of this run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _check_device(request: ExecutionConfig, world_size: int) -> None:
    """Raises ValueError if there is no such device here, or if several processes would share one."""
    request.check_device()
    name, _, index = request.device.partition(":")
    if index and world_size > 1:
        raise ValueError(
            f"--device {request.device} is for one process: {world_size} take a device each, with --device cuda"
        )
    if name == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    else:
        found = int(name != "mps" or torch.backends.mps.is_available())
    if not found:
        raise ValueError(f"--device {request.device}: no {name.upper()} device was found: use --device cpu")
    if index and int(index) >= found:
        raise ValueError(f"--device {request.device}: this machine has {found} CUDA device{'s' * (found > 1)}")


def _check_backend(local_rank: int) -> None:
    """Raises ValueError if the accelerator that is here can't be one of several."""
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    backend = distributed.Backend.default_device_backend_map.get(kind.type)
    if backend is None or not distributed.is_backend_available(backend):
        what = f"has no {backend}" if backend else "knows no way"
        raise ValueError(
            f"PyTorch {what} for several processes on {kind.type} here: use --device cpu, or start one process"
        )
    count = torch.accelerator.device_count()
    if local_rank >= count:
        raise ValueError(
            f"process {local_rank} of this machine finds {count} device{'s' * (count > 1)} of kind {kind.type}: "
            f"start {count} process{'es' * (count > 1)} a machine, or use --device cpu"
        )


def _why_not_joined(error: Exception) -> str:
    address = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    if "EADDRINUSE" in str(error):
        return f"the port of MASTER_PORT={os.environ.get('MASTER_PORT')} is in use on this machine: choose another"
    return f"can't join the other processes at {address}: {first_line(error)}"


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200].rstrip(".")
