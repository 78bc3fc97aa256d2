"""Where the run takes place: devices, processes and threads, through Hugging Face Accelerate.

Accelerate finds the device, joins the processes that a launcher started, and wraps networks for DDP. Precision,
compilation and gradient scaling are the plan's, so that they are the same with and without a launcher.
"""

import os
import warnings
from dataclasses import replace
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn

from fastdcgan.config import ExecutionConfig, PrecisionRequest

__all__ = ["Accelerator", "check_agreement", "default_threads", "difference", "join", "requested", "wrap"]


def join(request: ExecutionConfig) -> Accelerator:
    """Take our place among the processes of this run: one of one, unless a launcher says otherwise."""
    # Without a word from us Accelerate joins processes only where there are GPUs: on a CPU each would run alone.
    on_cpu = request.device == "cpu" or not torch.accelerator.is_available()
    # D's buffers must not be broadcast inside its second forward of a step: that would change, in place, what the first
    # one's backward needs. Synchronised ones are the same on all ranks; of local ones rank 0's are saved.
    ddp = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        comm_hook=DDPCommunicationHookType(request.compress_gradients.replace("off", "no")),
    )
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=[ddp])
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    assert accelerator.num_processes == world_size, (accelerator.num_processes, world_size)
    if accelerator.device.type == "cpu":
        torch.set_num_threads(request.threads or default_threads())
    return accelerator


def wrap(accelerator: Accelerator, network: nn.Module) -> nn.Module:
    """The network with its gradients averaged over all processes, if there are several."""
    with warnings.catch_warnings():
        # PyTorch 2.14 has a new name for `broadcast_buffers` that Accelerate 1.15 can't pass on yet.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        wrapped: nn.Module = accelerator.prepare_model(network)
    return wrapped


def check_agreement(accelerator: Accelerator, step: int) -> None:
    """All processes must start from the same step. Raises ValueError if they see different checkpoints."""
    if accelerator.num_processes == 1:
        return
    steps = gather_object([step])
    if len(set(steps)) > 1:
        raise ValueError(f"the processes see different checkpoints (steps {steps}): --out must be on a shared disk")


def difference(accelerator: Accelerator, tensors: dict[str, Tensor]) -> str | None:
    """The first of these tensors that is not, bit for bit, the same on all processes, and where; None if all are.

    Checksums are compared: eight bytes a tensor leave the device.
    """
    if accelerator.num_processes == 1:
        return None
    ours_N = torch.stack([_checksum(tensor) for tensor in tensors.values()])
    all_RN = accelerator.gather(ours_N).reshape(accelerator.num_processes, -1).cpu()
    for name, sums_R in zip(tensors, all_RN.unbind(1), strict=True):
        if others := (sums_R != sums_R[0]).nonzero().flatten().tolist():
            processes = "process " if len(others) == 1 else "processes "
            return f"{name} on {processes}{', '.join(map(str, others))} is not what it is on process 0"
    return None


def _checksum(tensor: Tensor) -> Tensor:
    """Of the bits, each weighted with its place, whatever the layout: int64, on the device."""
    bits = tensor.detach().contiguous().flatten().view(torch.int32)
    return (bits * torch.arange(1, bits.numel() + 1, device=bits.device)).sum()


def requested(request: ExecutionConfig) -> ExecutionConfig:
    """The request, with the precision that `accelerate launch --mixed_precision` asked for where it has none."""
    said = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if request.precision == "auto" and said in ("bf16", "fp16"):
        return replace(request, precision=cast(PrecisionRequest, said))
    return request


def default_threads() -> int:
    """Threads for this process's arithmetic: OMP_NUM_THREADS, else its share of the cores.

    Launchers set OMP_NUM_THREADS to 1 if nobody else has, which would leave all cores but one idle.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    said = os.environ.get("OMP_NUM_THREADS", "")
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if said.isdecimal() and int(said) > 0 and not (launched and said == "1"):
        return int(said)
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
