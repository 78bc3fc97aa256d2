"""All-reduce of the small tensors that synchronised BatchNorm adds up over ranks, and of gradients on the CPU.

Ranks of one machine add up through memory that they share (`shared_memory.py`); others through gloo, where the cost of
small tensors is latency alone.
"""

import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from fastdcgan.gan.ranges import ALL_REDUCE, profiler_range
from fastdcgan.kernels import recorded
from fastdcgan.kernels.shared_memory import SPIN_SECONDS, SharedMemory, open_together, yield_core
from fastdcgan.private_torch import functional_all_reduce_sum

_MAX_RANKS_TO_GATHER = 16
"""With more ranks, the sums of all of them are too many bytes for gathering to be faster."""

_SMALL = 1 << 16
"""Bytes, up to which they are gathered: BatchNorm's sums, not gradients."""

all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The second is the first's name before torch 2.14, which warns of it."""

_shared: "WeakKeyDictionary[dist.ProcessGroup, list[SharedMemory | None]]" = WeakKeyDictionary()
"""What each group has opened, each larger than the one before; None is the last where its ranks can't share any."""


def world_size() -> int:
    """How many processes have joined; 1 where none were to."""
    return dist.get_world_size() if dist.is_initialized() else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum over all ranks of the default process group, same shape and dtype. torch.compile can trace it."""
    with profiler_range(ALL_REDUCE):
        if tensor.device.type == "cpu" and not torch.compiler.is_compiling():
            total = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            recorded.call(_add_up, total, tensor.contiguous())
            return total
        return functional_all_reduce_sum(tensor, _group())


def average_through_memory(tensors: Sequence[Tensor]) -> bool:
    """Replace tensors on the CPU by their means over all ranks, if these share memory. Returns whether they do.

    All ranks' tensors must lie in memory in the same way.
    """
    if any(tensor.device.type != "cpu" or not _is_dense(tensor) for tensor in tensors):
        return False
    memory = _shared_memory(_group(), sum(tensor.nbytes for tensor in tensors))
    if memory is None:
        return False
    with profiler_range(ALL_REDUCE):
        memory.average(tensors)
    return True


def _add_up(total: Tensor, own: Tensor) -> None:
    group = _group()
    if (memory := _shared_memory(group, own.nbytes)) is not None:
        memory.add_up(total, own)
    elif own.nbytes <= _SMALL and group.size() <= _MAX_RANKS_TO_GATHER:
        _gather_and_add(total, own, group.size())
    else:
        dist.all_reduce(total.copy_(own))


def _gather_and_add(total: Tensor, own: Tensor, ranks: int) -> None:
    """Gloo's ring takes half as many rounds to gather as to reduce.

    Called directly: a functional collective takes twice as long to start.
    """
    gathered_R = own.new_empty((ranks, *own.shape))
    work = all_gather_single(gathered_R.view(-1), own.view(-1), async_op=True)
    assert work is not None
    # Waking a thread takes longer than a small message does.
    sleep_at = time.perf_counter() + SPIN_SECONDS
    while not work.is_completed() and time.perf_counter() < sleep_at:
        yield_core()
    work.wait()
    torch.sum(gathered_R, 0, out=total)


def _group() -> dist.ProcessGroup:
    group = dist.group.WORLD
    assert group is not None, "there is no process group"
    return group


def _shared_memory(group: dist.ProcessGroup, size: int) -> SharedMemory | None:
    """Memory for so many bytes of each rank. The ranks open it at the first call, together."""
    opened = _shared.setdefault(group, [])
    for memory in opened:
        if memory is None or memory.capacity >= size:
            return memory
    capacity = 1 << (size - 1).bit_length()  # a power of two: so both networks' gradients fit into one
    memory = open_together(group, max(_SMALL, capacity))
    opened.append(memory)
    return memory


def _is_dense(tensor: Tensor) -> bool:
    """Whether its numbers lie side by side, in whatever order."""
    sizes_and_strides = zip(tensor.shape, tensor.stride(), strict=True)
    return sum((size - 1) * stride for size, stride in sizes_and_strides) + 1 == tensor.numel()
