"""A stand-in for a CUDA graph on the CPU: records operators with their tensors, and repeats them on the same tensors.

So what Python decided or computed on the host is baked in, and a tensor that was replaced is not the one that is read.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph(TorchDispatchMode):
    """See `replay.Graph`. Reading a number on the host is an error while recording, as on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number is read on the host while recording")
        results = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, results))
        return results

    def warm_up(self, call: Callable[[], Tensor]) -> None:
        call()

    def record(self, call: Callable[[], Tensor]) -> Tensor:
        with self:
            return call()

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, recorded in self._calls:
                given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
                results = func(*args, **kwargs)
                for old, new in zip(tree_leaves(recorded), tree_leaves(results), strict=True):
                    if isinstance(old, Tensor) and storage(old) not in given:  # no view, not changed in place
                        old.detach().copy_(new)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
