"""All-reduce of the small tensors that synchronised BatchNorm adds up over ranks: their cost is latency alone."""

import os
import time
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from fastdcgan.gan.ranges import ALL_REDUCE, profiler_range
from fastdcgan.private_torch import functional_all_reduce_sum

_MAX_RANKS_TO_GATHER = 16
"""With more ranks, the sums of all of them are too many bytes for gathering to be faster."""

_SPIN_SECONDS = 0.05
"""How long a rank polls for the others before it sleeps."""

all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The second is the first's name before torch 2.14, which warns of it."""

_yield_core = getattr(os, "sched_yield", partial(time.sleep, 0))  # Windows has no sched_yield


def all_reduce_sum(sums: Tensor) -> Tensor:
    """The sum over all ranks of the default process group, same shape and dtype. torch.compile can trace it."""
    with profiler_range(ALL_REDUCE):
        group = dist.group.WORLD
        assert group is not None, "there is no process group"
        if sums.device.type == "cpu" and group.size() <= _MAX_RANKS_TO_GATHER and not torch.compiler.is_compiling():
            return _gather_and_add(sums, group.size())
        return functional_all_reduce_sum(sums, group)


def _gather_and_add(sums: Tensor, ranks: int) -> Tensor:
    """Gloo's ring takes half as many rounds to gather as to reduce.

    Called directly: a functional collective takes twice as long to start.
    """
    gathered_R = sums.new_empty((ranks, *sums.shape))
    work = all_gather_single(gathered_R.view(-1), sums.reshape(-1), async_op=True)
    assert work is not None
    # Waking a thread takes longer than a small message does.
    sleep_at = time.perf_counter() + _SPIN_SECONDS
    while not work.is_completed() and time.perf_counter() < sleep_at:
        _yield_core()
    work.wait()
    return gathered_R.sum(0)
