"""Predictions for GPUs: consistent with themselves, and with one made another way."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.step import train_step
from fastdcgan.limits.gpu_prediction import Kernel, eager_launches, predict, step_kernels
from fastdcgan.limits.roofline import KNOWN_GPUS, Ceilings, iteration_flops, pass_flops

DCGAN64 = architecture("dcgan64")

NAMES = ("dcgan28", "dcgan32", "dcgan64", "dcgan96", "dcgan128", "dcgan64x128")


class Operators(TorchDispatchMode):
    """Counts the operators that would launch something on a GPU."""

    SILENT = ("aten.empty", "profiler.", "aten.promote_types")

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and not str(func).startswith(self.SILENT):
            self.calls[str(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_launches_are_those_of_a_real_step(name: str, precision: Precision) -> None:
    arch = architecture(name, width=2)
    state = prepare(Plan(precision=precision), *models.build(arch, 0), RecipeConfig(), torch.device("cpu"))
    real_BCHW = torch.zeros(2, arch.channels, *arch.resolution)
    step = real_BCHW.contiguous(memory_format=torch.channels_last), torch.zeros(2, arch.latent_dim)
    train_step(state, *step)  # the first one makes Adam's state
    with Operators() as seen:
        train_step(state, *step)
    assert eager_launches(arch, precision) == seen.calls.total()


@pytest.mark.parametrize("name", NAMES)
def test_the_kernels_do_the_work_of_an_iteration(name: str) -> None:
    arch = architecture(name)
    whole = step_kernels(arch, 4, "fp32")
    assert sum(kernel.flops for kernel in whole) == 4 * iteration_flops(*pass_flops(arch))
    assert len({kernel.name for kernel in whole}) == len(whole)
    assert all(kernel.bytes > 0 for kernel in whole)


def test_bytes_of_a_layer_by_hand() -> None:
    """D's second layer, 64 x 32 x 32 to 128 x 16 x 16, for 3 pictures in bf16."""
    by_name = {kernel.name: kernel.bytes for kernel in step_kernels(DCGAN64, 3, "bf16")}
    before, after, weight = 3 * 64 * 32**2, 3 * 128 * 16**2, 64 * 128 * 4 * 4
    assert by_name["D real 1 convolution"] == 2 * (before + weight + after)
    assert by_name["D real 1 statistics"] == 2 * after
    assert by_name["D real 1 activation"] == 2 * 2 * after
    assert by_name["D real 1 weight's gradient"] == 2 * (before + weight + after)
    assert "D real 0 input's gradient" not in by_name and "D updated 0 input's gradient" in by_name
    assert "D updated 1 weight's gradient" not in by_name
    weights = (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) * 16
    assert by_name["D Adam"] == (2 * 12 + 2 * 2) * weights  # read and written: weight and two moments; two gradients
    assert by_name["D cast"] == (4 + 2) * weights
    assert not [kernel for kernel in step_kernels(DCGAN64, 3, "fp32") if "cast" in kernel.name]


def test_a_kernel_waits_for_the_slower_of_the_two() -> None:
    gpu = Ceilings(name="paper", flops={"bf16": 100.0}, bytes=10.0)  # of which 80 and 8 are attainable
    assert Kernel(name="conv", flops=160.0, bytes=8.0).seconds(gpu, "bf16") == pytest.approx(2)
    assert Kernel(name="norm", flops=0.0, bytes=24.0).seconds(gpu, "bf16") == pytest.approx(3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("gpu", KNOWN_GPUS)
def test_the_sum_over_kernels_lies_between_its_bounds(gpu: str, precision: str) -> None:
    step = predict(DCGAN64, 128, KNOWN_GPUS[gpu], precision)
    assert max(step.arithmetic, step.memory) < step.captured < step.arithmetic + step.memory
    assert step.eager == max(step.captured, step.launches)


def test_a_larger_batch_takes_longer_on_the_gpu_but_is_launched_as_fast() -> None:
    small, large = (predict(DCGAN64, batch, KNOWN_GPUS["H100"], "bf16") for batch in (128, 1024))
    assert large.launches == small.launches
    assert large.arithmetic == pytest.approx(8 * small.arithmetic)
    assert 7 * small.captured < large.captured < 8 * small.captured  # the optimizers' share doesn't grow
    assert (small.eager_bound_by, large.eager_bound_by) == ("launches", "memory")


def test_a_fast_gpu_waits_for_launches_then_for_memory() -> None:
    step = predict(DCGAN64, 128, KNOWN_GPUS["H100"], "bf16")
    assert (step.eager_bound_by, step.captured_bound_by) == ("launches", "memory")
    assert predict(DCGAN64, 128, KNOWN_GPUS["A100"], "bf16").eager_bound_by != "launches"


@pytest.mark.parametrize(
    ("gpu", "arithmetic", "memory", "captured"), [("H100", 0.36, 0.84, 1.03), ("A100", 1.17, 1.49, 2.32)]
)
def test_it_agrees_with_the_compilers_own_kernels(gpu: str, arithmetic: float, memory: float, captured: float) -> None:
    """Milliseconds found by lowering the iteration with Inductor for each GPU and adding up the kernels it made.

    Its kernels move 2.4 GB, ours 2.0: it doesn't compute all again that it could, and copies some layouts.
    """
    step = predict(DCGAN64, 128, KNOWN_GPUS[gpu], "bf16")
    assert 1e3 * step.arithmetic == pytest.approx(arithmetic, rel=0.05)
    assert 1e3 * step.memory == pytest.approx(memory, rel=0.25)
    assert 1e3 * step.captured == pytest.approx(captured, rel=0.25)
    assert sum(kernel.bytes for kernel in step_kernels(DCGAN64, 128, "bf16")) == pytest.approx(2.4e9, rel=0.25)
    assert 1.6 <= 1e3 * step.launches <= 2.0
