"""Counting by formula: a profiled step has the arithmetic that `roofline.py` says it has, whoever does it."""

from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile, schedule

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import KernelName, Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import train_step
from fastdcgan.kernels import fused_batch_norm, native, thin, winograd
from fastdcgan.limits.roofline import iteration_flops, pass_flops
from fastdcgan.telemetry.profiler import trace
from fastdcgan.telemetry.profiler.operators import OperatorCall, bytes_moved, flops
from fastdcgan.telemetry.profiler.trace import Window

BATCH = 4

OURS: tuple[KernelName, ...] = ("ends", "norm", "thin", "winograd")

needs_our_kernels = pytest.mark.skipif(
    not all(kernels.available() for kernels in (fused_batch_norm, thin, winograd)),
    reason="our kernels can't be built here",
)


def recorded(arch: Architecture, plan: Plan, tmp_path: Any) -> Window:
    """One step of a batch."""
    state = prepare(plan, *models.build(arch, seed=0), RecipeConfig(), torch.device("cpu"))
    real_BCHW = torch.randn(BATCH, arch.channels, *arch.resolution)
    real_BCHW = real_BCHW.contiguous(memory_format=torch.channels_last)
    z_BL = torch.randn(BATCH, arch.latent_dim)
    with profile(
        activities=[ProfilerActivity.CPU],
        schedule=schedule(wait=0, warmup=1, active=1, repeat=1),
        record_shapes=True,
        acc_events=True,
        on_trace_ready=lambda done: done.export_chrome_trace(str(tmp_path / "trace.json")),
    ) as profiled:
        for _ in range(2):
            train_step(state, real_BCHW, z_BL)
            profiled.step()
    return trace.read(trace.parse((tmp_path / "trace.json").read_text()))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "kernels",
    [(), ("ends",), pytest.param(OURS, marks=needs_our_kernels)],
    ids=["PyTorch's", "ends", "ours"],
)
@pytest.mark.parametrize("name", ["dcgan32", "dcgan28"])
def test_a_steps_arithmetic_is_what_the_roofline_counts(name: str, kernels: Any, precision: Any, tmp_path: Any) -> None:
    if precision == "bf16" and kernels == OURS and not winograd.available(torch.bfloat16):
        pytest.skip("no bf16 kernels here")
    arch = architecture(name, width=32)
    window = recorded(arch, Plan(precision=precision, kernels=kernels), tmp_path)
    assert sum(row.flops for row in window.rows) == BATCH * iteration_flops(*pass_flops(arch))
    ours = {row.name for row in window.rows if row.name.startswith("fastdcgan::")}
    if kernels == OURS:
        strided = "direct" if precision == "bf16" and native.has_kernel("direct_gather", torch.bfloat16) else "winograd"
        assert {f"fastdcgan::{strided}_gather", "fastdcgan::normalise_forward"} <= ours
    assert {row.precision for row in window.rows if row.flops} == {precision}


def call(name: str, *shapes: list[int], kind: str = "float") -> OperatorCall:
    return OperatorCall(name=name, shapes=shapes, types=(kind,) * len(shapes), scalars=("",) * len(shapes))


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (call("aten::copy_", [4, 5], [4, 5]), 160),
        (call("aten::relu", [4, 5], kind="c10::BFloat16"), 80),
        (call("aten::add_", [4, 5], [4, 5]), 240),
        (call("aten::zero_", [4, 5]), 80),
        (call("aten::sum", [4, 5]), 80),
        (call("fastdcgan::normalise_forward_from", [4, 5], [5], [4, 5]), 180),
    ],
    ids=lambda value: value.name if isinstance(value, OperatorCall) else str(value),
)
def test_memory_bound_operators_are_counted_in_bytes(made: OperatorCall, wanted: int) -> None:
    assert bytes_moved(made) == wanted
    assert flops(made) is None


def test_adam_reads_four_and_writes_three_numbers_a_parameter() -> None:
    lists = ([[10], [2, 5]],) * 4
    made = OperatorCall(name="aten::_fused_adam_", shapes=lists, types=("TensorList",) * 4, scalars=("",) * 4)
    assert bytes_moved(made) == 7 * 4 * 20


@pytest.mark.parametrize("name", ["aten::empty", "aten::view", "_GatherBackward", "Torch-Compiled Region: 0/0"])
def test_unknown_operators_have_no_figures(name: str) -> None:
    assert flops(call(name, [4, 5])) is None
    assert bytes_moved(call(name, [4, 5])) is None


def test_incomplete_recordings_give_none() -> None:
    assert flops(OperatorCall(name="aten::convolution", shapes=(), types=(), scalars=())) is None
    assert bytes_moved(OperatorCall(name="aten::relu", shapes=(), types=(), scalars=())) is None
