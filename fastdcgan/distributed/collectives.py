"""Collectives over all processes of a run: gather, broadcast, maximum, comparison."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, distributed

from fastdcgan.distributed.accelerator import Accelerator

T = TypeVar("T")

PREPARATION = timedelta(days=1)
"""How long processes wait for one that prepares the data: of a large folder every file is read and decoded first."""


def gather_objects(accelerator: Accelerator, value: T) -> list[T]:
    """Each process's value, by rank."""
    values: list[T] = gather_object([value]) if accelerator.num_processes > 1 else [value]
    return values


def broadcast_object(accelerator: Accelerator, value: T, source: int = 0) -> T:
    """The value of one process, by default the main one, on all of them."""
    values = [value]
    if accelerator.num_processes > 1:
        broadcast_object_list(values, from_process=source)
    return values[0]


def patient_group(accelerator: Accelerator) -> distributed.ProcessGroup | None:
    """All processes, for barriers that wait for `PREPARATION` instead of `--rank-timeout`; None for a single one."""
    if accelerator.num_processes == 1:
        return None
    return cast(distributed.ProcessGroup, distributed.new_group(timeout=PREPARATION, backend="gloo"))


@contextmanager
def local_main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """One process of each machine runs the block first, then the others, which find its work done. All leave together.

    Unlike Accelerate's own, it waits for `PREPARATION` instead of `--rank-timeout`: preparing data may take long.
    """
    patient = patient_group(accelerator)
    if patient is None:
        yield
        return
    if not accelerator.is_local_main_process:
        distributed.barrier(patient)
    yield
    if accelerator.is_local_main_process:
        distributed.barrier(patient)
    distributed.barrier(patient)


def all_reduce_max(accelerator: Accelerator, *numbers: float) -> list[float]:
    """The maximum over all processes of each number, in fp32."""
    if accelerator.num_processes == 1:
        return list(numbers)
    ours = torch.tensor(numbers, device=accelerator.device)
    torch.distributed.all_reduce(ours, torch.distributed.ReduceOp.MAX)
    return cast(list[float], ours.tolist())


def first_difference(accelerator: Accelerator, tensors: dict[str, Tensor]) -> str | None:
    """Name the first tensor that is not, bit for bit, the same on all processes, and those processes; None if all are.

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
    """A sum of the bits, each weighted with its place, whatever the memory layout: int64, on the device."""
    bits = tensor.detach().contiguous().flatten().view(torch.int32)
    return (bits * torch.arange(1, bits.numel() + 1, device=bits.device)).sum()
