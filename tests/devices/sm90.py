"""Lowers a plan's step for an H100 by Inductor, without one: to the machine code of its kernels.

The step is traced on the CPU, as autograd doesn't run for devices that aren't there. The graph of ATen's operators is
then moved to CUDA with fake tensors, and lowered. To be called in a process of its own, which from `begin` on believes
in an H100.
"""

import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.capture import inductor_options
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture

CUDA = torch.device("cuda", 0)

Numbers = tuple[int, ...]

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "total_memory": 80 * 2**30,
    "max_threads_per_block": 1024,
    "max_threads_per_multi_processor": 2048,
    "regs_per_multiprocessor": 65536,
    "warp_size": 32,
    "L2_cache_size": 50 * 2**20,
    "shared_memory_per_block": 48 * 2**10,
    "shared_memory_per_block_optin": 227 * 2**10,
    "shared_memory_per_multiprocessor": 228 * 2**10,
}


@dataclass(frozen=True)
class Lowered:
    """A graph of a step, lowered."""

    source: str
    """The Python program that Inductor wrote: it launches the kernels and calls cuDNN."""

    bytes: int
    """Read and written by its kernels, as Inductor counts them."""

    @property
    def launches(self) -> int:
        """Of Triton's kernels."""
        return len(re.findall(r"^ +triton_\w+\.run\(", self.source, re.M))

    @property
    def forward_convolutions(self) -> int:
        """By cuDNN."""
        return len(re.findall(r"^ +buf\d+ = extern_kernels\.convolution\(", self.source, re.M))

    @property
    def backward_convolutions(self) -> int:
        """By cuDNN: each gives the gradient of the weight, of the input, or both."""
        return len(re.findall(r"^ +buf\d+ = torch\.ops\.aten\.convolution_backward\.default\(", self.source, re.M))

    @property
    def buffers(self) -> list[tuple[Numbers, Numbers]]:
        """Shape and strides of each tensor that it allocates, and of cuDNN's results."""
        made = re.findall(r"= empty_strided_cuda\((\([\d, ]+\)), (\([\d, ]+\))", self.source)
        returned = re.findall(r"assert_\w+\(buf\d+, (\([\d, ]+\)), (\([\d, ]+\))", self.source)
        return [(literal_eval(shape), literal_eval(strides)) for shape, strides in made + returned]

    @property
    def kernels(self) -> dict[str, str]:
        """Triton's, by name: a program each."""
        found = re.findall(r"^(\w+) = async_compile\.triton\('\w+', (\'\'\'.*?\'\'\')", self.source, re.M | re.S)
        return {name: literal_eval(text) for name, text in found}


class _NoDeviceError(Exception):
    """A program is written; running it takes a device."""


class _Driver:
    """What Triton asks its driver for."""

    utils = SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 227 * 2**10})

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0


def begin() -> None:
    """Let PyTorch find an H100, for the rest of the process; before its compiler is imported."""
    torch._C._ensureCUDADeviceGuardSet()
    found: dict[str, Callable[..., Any]] = {
        "is_available": lambda: _lowering,
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda device=None: SimpleNamespace(**H100),
        "get_device_capability": lambda device=None: (9, 0),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "synchronize": lambda device=None: None,
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
    }
    for name, function in found.items():
        setattr(torch.cuda, name, function)
    # Without a device PyTorch would not choose cuDNN, whose results are channels-last.
    torch._C._select_conv_backend = lambda *_, **__: torch._C._ConvBackend.Cudnn

    from torch._inductor.graph import GraphLowering
    from torch._inductor.runtime import triton_helpers
    from triton.runtime import driver

    triton_helpers.set_driver_to_gpu = lambda: None
    driver.set_active(_Driver())
    GraphLowering.save_output_code = staticmethod(_keep)


_lowering = False
"""Whether a graph is being lowered. While it is traced, on the CPU, there is no CUDA."""

_lowered: list[Lowered] = []


def _keep(source: str) -> None:
    from torch._inductor.virtualized import V

    _lowered.append(Lowered(source, V.graph.count_bytes()[0]))
    raise _NoDeviceError


def lower(
    name: str, plan_fields: dict[str, Any], batch: int, plant: Callable[[pytest.MonkeyPatch], None] | None = None
) -> list[Lowered]:
    """Lower the step of networks by name, under a plan compiled by Inductor; perhaps with a fault planted."""
    from functorch.compile import min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd
    from torch._inductor import config
    from torch._inductor.decomposition import select_decomp_table

    backend = aot_autograd(
        fw_compiler=_lower_graph,
        bw_compiler=_lower_graph,
        inference_compiler=_lower_graph,
        decompositions=select_decomp_table(),
        partition_fn=min_cut_rematerialization_partition,
    )
    _lowered.clear()
    arch, plan = architecture(name), Plan(**plan_fields, backend=backend)
    real_BCHW = torch.zeros(batch, arch.channels, *arch.resolution)
    real_BCHW = real_BCHW.contiguous(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patch:
        if plant:
            plant(patch)
        state = prepare(plan, *models.build(arch, 0), RecipeConfig(), torch.device("cpu"))
        with config.patch(inductor_options() if plan.capture else {}):
            step_function(plan, state)(real_BCHW, torch.zeros(batch, arch.latent_dim))
    return list(_lowered)


def machine_code(graph: Lowered, folder: Path) -> list[int]:
    """Compile a graph's kernels with Triton for the H100 into an empty folder. Returns the bytes of each."""
    from torch._inductor.codecache import PyCodeCache

    with pytest.MonkeyPatch.context() as patch, _cuda_is_available():
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        for name, source in graph.kernels.items():
            kernel = getattr(PyCodeCache.load(source), name)
            kernel.configs = kernel.configs[:1]  # of those that would be measured on the device
            kernel.precompile(warm_cache_only=True)
    return [file.stat().st_size for file in folder.rglob("*.cubin")]


@contextmanager
def _cuda_is_available() -> Iterator[None]:
    global _lowering
    _lowering = True
    torch.utils._triton.has_triton.cache_clear()
    try:
        yield
    finally:
        _lowering = False


def _lower_graph(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """Lower one graph for the H100; returns it as it is, for the CPU, so that tracing goes on."""
    from functorch.compile import make_boxed_func
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.exc import InductorError
    from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    copied = torch.fx.Graph()
    copied.output(copied.graph_copy(graph.graph, {}))
    for node in copied.nodes:
        node.args, node.kwargs = tree_map(
            lambda x: CUDA if isinstance(x, torch.device) else x, (node.args, node.kwargs)
        )
    moved = torch.fx.GraphModule(graph, copied)
    with unset_fake_temporarily(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        on_cuda = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA) if isinstance(x, Tensor) else x
            for x in inputs
        ]
    with unset_fake_temporarily(), tracing(TracingContext(mode)), _cuda_is_available():
        FakeTensorProp(moved, mode).propagate_dont_convert_inputs(*on_cuda)
        try:
            compile_fx_inner(moved, on_cuda)
        except InductorError as error:
            if not isinstance(error.inner_exception, _NoDeviceError):
                raise
    return make_boxed_func(graph.forward)
