"""A stand-in for a CUDA graph on the CPU: records operators with their tensors, and repeats them on the same tensors.

So what Python decided or computed on the host is baked in, and a tensor that was replaced is not the one that is read.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo import register_backend
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

COMPILED = "recorded_inductor"
"""A backend of torch.compile: Inductor, whose kernels are seen by the stand-in; else only what it leaves to PyTorch."""


class RecordedGraph(TorchDispatchMode):
    """See `replay.Graph`. Reading a number on the host is an error while recording, as on a GPU."""

    recording: "RecordedGraph | None" = None

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Else compiled networks would run operator by operator under this mode."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("a number is read on the host while recording")
        assert func.namespace != "c10d", f"{func}: whoever waits for it is not recorded"
        return self.call(func, *args, **(kwargs or {}))

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it, and again in each replay."""
        results = func(*args, **kwargs)
        self._calls.append((func, args, kwargs, results))
        return results

    def warm_up(self, call: Callable[[], Tensor]) -> None:
        call()

    def record(self, call: Callable[[], Tensor]) -> Tensor:
        with self:
            RecordedGraph.recording = self
            try:
                return call()
            finally:
                RecordedGraph.recording = None

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, recorded in self._calls:
                given = {storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
                results = func(*args, **kwargs)
                if func is torch.ops._c10d_functional.all_reduce.default:
                    results = torch.ops._c10d_functional.wait_tensor(
                        results
                    )  # the operator that waits knows the old one
                for old, new in zip(tree_leaves(recorded), tree_leaves(results), strict=True):
                    if isinstance(old, Tensor) and storage(old) not in given:  # no view, not changed in place
                        old.detach().copy_(new)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@register_backend(name=COMPILED)  # type: ignore[arg-type]
def recorded_inductor(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
    """A forward or a backward pass is one call in the record."""
    from torch._functorch.aot_autograd import aot_module_simplified
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table

    def compiled(graph: torch.fx.GraphModule, example: list[Tensor], **of_pass: Any) -> Any:
        inner: Any = compile_fx_inner(graph, example, **of_pass)

        def call(*inputs: Tensor) -> Any:
            return tuple(inner(list(inputs)))  # which empties the list

        def boxed(inputs: list[Tensor]) -> Any:
            given = tuple(inputs)
            inputs.clear()
            recorder = RecordedGraph.recording
            if recorder is None:
                return call(*given)
            with _disable_current_modes():  # it is one call, not the operators that Inductor left in it
                return recorder.call(call, *given)

        boxed._boxed_call = True  # type: ignore[attr-defined]
        return boxed

    def backward(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        return compiled(graph, example, is_backward=True)

    return aot_module_simplified(
        graph, example, fw_compiler=compiled, bw_compiler=backward, decompositions=select_decomp_table()
    )
