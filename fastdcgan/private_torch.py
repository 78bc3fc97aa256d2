"""All that is used of PyTorch's private names: no other module touches one, and a test holds them to it.

Each has no public equal that serves. Checked with torch 2.11 and 2.14; what is missing in a later version fails here,
when the package is imported or, for the compiler, when a step is captured.
"""

import sys
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
import torch.distributed._functional_collectives as collectives
from torch import Tensor
from torch._ops import OpOverload as OpOverload  # an operator, as a dispatch mode is given it
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # every operator passes through it
from torch.utils._pytree import tree_leaves as tree_leaves
from torch.utils._pytree import tree_map_only as tree_map_only

# Public `record_function` takes microseconds whether or not a profiler is active: the first says so in 0.1 us, the
# second records shapes.
profiler_is_active = torch._C._autograd._profiler_enabled
record_operator = torch._C._profiler._RecordFunctionFast

# What torch.optim's own updates are made of: an operator for all tensors of a list, which torch.compile can trace.
foreach_add_ = torch._foreach_add_
foreach_addcmul_ = torch._foreach_addcmul_
foreach_div = torch._foreach_div
foreach_div_ = torch._foreach_div_
foreach_lerp_ = torch._foreach_lerp_
foreach_mul_ = torch._foreach_mul_
foreach_sqrt = torch._foreach_sqrt


class Adam(torch.optim.Adam):
    """PyTorch's Adam, whose fused update on a CPU is given tensors as they lie in memory.

    It changes numbers in that order, whatever their axes are; but of each gradient that isn't contiguous, as none is
    whose weight is channels-last, it first makes a contiguous copy, which it doesn't read (FusedAdamKernel.cpp).
    """

    def _init_group(self, group: dict[str, Any], *lists: list[Tensor]) -> bool:
        """As PyTorch's: fill the lists of weights, gradients and moments, each in the same order."""
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        if group["fused"]:
            weights, gradients, means, squares = lists[:4]
            for place, of_weight in enumerate(zip(weights, gradients, means, squares, strict=True)):
                copied = of_weight[1].device.type == "cpu" and not of_weight[1].is_contiguous()
                if copied and len(strides := {tensor.stride() for tensor in of_weight}) == 1:
                    order = _order(*strides)
                    for tensors, tensor in zip(lists, of_weight, strict=False):
                        tensors[place] = tensor.permute(order)
        return has_complex


@cache
def _order(strides: tuple[int, ...]) -> list[int]:
    """In which axes lie in memory, the outermost first."""
    return sorted(range(len(strides)), key=strides.__getitem__, reverse=True)


class StorageReference:
    """A weak reference to a tensor's memory."""

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self._weak = StorageWeakRef(storage)

    @property
    def key(self) -> int:
        """The storage's number; as long as there is a reference to it, no other storage gets it."""
        key: int = self._weak.cdata
        return key

    def storage(self) -> torch.UntypedStorage | None:
        """None if it was freed."""
        storage: torch.UntypedStorage | None = torch.UntypedStorage._new_with_weak_ptr(self.key)
        return storage


def functional_all_reduce_sum(tensor: Tensor, group: torch.distributed.ProcessGroup) -> Tensor:
    """The sum over a group's ranks in a new tensor: an operator of the graph where torch.compile traces it."""
    summed: Tensor = collectives.wait_tensor(collectives.all_reduce(tensor, "sum", group))
    return summed


def collective_timeout(group: torch.distributed.ProcessGroup) -> float:
    """Seconds for which a group's rank waits for another one on the CPU."""
    seconds: float = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
    return seconds


def autograd_in_graphs() -> AbstractContextManager[None]:
    """In it torch.compile traces `torch.autograd.grad` into the graph, which would break in two there otherwise."""
    patched: AbstractContextManager[None] = torch._dynamo.config.patch(trace_autograd_ops=True)
    return patched


def mark_static_address(tensor: Tensor) -> None:
    """Promise the compiler that a tensor stays where it is, so that a CUDA graph may change it in place."""
    torch._dynamo.mark_static_address(tensor, guard=False)


def compiler_is_loaded() -> bool:
    """Whether anything was compiled: resetting the compiler would load it, which takes a second."""
    return "torch._dynamo" in sys.modules
