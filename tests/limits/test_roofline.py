"""The roofline: FLOPs against PyTorch's own counter and by hand, and plausible peaks of this machine."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fastdcgan.config import ObjectiveName, RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import train_step
from fastdcgan.limits import roofline
from fastdcgan.limits.roofline import (
    KNOWN_GPUS,
    MOST_COPIED,
    Ceilings,
    WorkPerImage,
    copied_bytes,
    iteration_flops,
    measure_ceilings,
    numbers_moved,
    pass_flops,
    throughput_limit,
    work_per_image,
)

NAMES = ("dcgan28", "dcgan32", "dcgan64", "dcgan96", "dcgan128", "dcgan64x128")


def counted_by_torch(arch: Architecture, batch: int, recipe: RecipeConfig) -> int:
    """The arithmetic of a real step."""
    state = prepare(Plan(), *models.build(arch, 0), recipe, torch.device("cpu"))
    real_BCHW = torch.zeros(batch, arch.channels, *arch.resolution)
    with FlopCounterMode(display=False) as counter:
        train_step(state, real_BCHW, torch.zeros(batch, arch.latent_dim))
    return counter.get_total_flops()


@pytest.mark.parametrize(("name", "objective"), [*((name, "bce") for name in NAMES), ("dcgan32", "rpgan")])
def test_the_arithmetic_is_what_a_real_step_does(name: str, objective: ObjectiveName) -> None:
    arch = architecture(name, width=8)
    counted = counted_by_torch(arch, 2, RecipeConfig(objective=objective))
    assert counted == 2 * work_per_image(arch, 2, relativistic=objective == "rpgan").flops


def test_more_is_moved_where_d_looks_at_real_pictures_once_more() -> None:
    arch = architecture("dcgan32", width=8)
    assert 1.05 < numbers_moved(arch, 4, relativistic=True) / numbers_moved(arch, 4) < 1.2


def test_dcgan64_by_hand() -> None:
    generator, discriminator = pass_flops(architecture("dcgan64"))
    middle = 2 * 512 * 256 * 16 * 4 * 4  # halving the channels and doubling the side keeps the product
    assert generator == [2 * 100 * 512 * 16, middle, middle, middle, 2 * 64 * 3 * 16 * 32 * 32]
    assert discriminator == [2 * 3 * 64 * 16 * 32 * 32, middle, middle, middle, 2 * 512 * 16]
    assert iteration_flops(generator, discriminator) == pytest.approx(2.29e9, rel=0.01)


def test_optimizer_traffic_is_divided_by_the_batch_and_half_precision_halves_the_rest() -> None:
    arch = architecture("dcgan32", width=8)
    small, large = work_per_image(arch, 2), work_per_image(arch, 64)
    assert small.flops == large.flops
    assert small.bytes > large.bytes
    parameters = sum(models.parameter_count(network) for network in models.build(arch, 0))
    halved = work_per_image(arch, 64, bytes_per_number=2)
    assert large.bytes - halved.bytes == pytest.approx(2 * numbers_moved(arch, 64) / 64)
    assert halved.bytes > 7 * 4 * parameters / 64


def test_traffic_is_at_least_every_layer_read_and_written() -> None:
    """D alone writes and reads its feature maps in three forward passes."""
    arch = architecture("dcgan64")
    maps = 3 * 64**2 + 64 * 32**2 + 128 * 16**2 + 256 * 8**2 + 512 * 4**2
    assert 6 * maps < numbers_moved(arch, 4) / 4 < 200 * maps


def test_the_lower_of_the_two_bounds_counts() -> None:
    machine = Ceilings(name="paper", flops={"fp32": 100.0, "bf16": 400.0}, bytes=1000.0)
    needed = WorkPerImage(flops=10.0, bytes=50.0)
    assert (
        throughput_limit(needed, machine, "fp32").images_per_sec,
        throughput_limit(needed, machine, "fp32").bound_by,
    ) == (
        10,
        "arithmetic",
    )
    assert (
        throughput_limit(needed, machine, "bf16").images_per_sec,
        throughput_limit(needed, machine, "bf16").bound_by,
    ) == (20, "memory")


def test_a_fast_gpu_is_bound_by_memory() -> None:
    needed = work_per_image(architecture("dcgan64"), 128, bytes_per_number=2)
    assert throughput_limit(needed, KNOWN_GPUS["H100"], "bf16").bound_by == "memory"


def test_this_machines_peaks_are_plausible() -> None:
    ceilings = measure_ceilings(seconds=0.02)
    assert 1e9 < ceilings.flops["fp32"] < 1e15
    assert 1e8 < ceilings.bytes < 1e13


@pytest.mark.parametrize(("rate", "sides"), [(2e9, [256]), (100e9, [256, 1024])])
def test_no_large_product_where_it_would_take_long(
    rate: float, sides: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 GFLOP/s is what bf16 reaches without instructions for it: a run ended 4 s later for it."""
    measured: list[int] = []
    monkeypatch.setattr(roofline, "_best_rate", lambda amount, kernel, seconds: measured.append(amount) or rate)
    assert roofline._matrix_rate(torch.bfloat16, 0.03) == rate
    assert measured == [2 * side**3 for side in sides]


@pytest.mark.parametrize(
    ("cache", "memory", "size"),
    [
        (8 * 2**20, 2**34, 16 * 2**20),
        (2**29, 2**34, MOST_COPIED),
        (None, 2**34, MOST_COPIED),
        (2**29, 2**30, 2**25),  # a container of 1 GiB on a machine with a large cache
        (None, 2**30, 2**25),
    ],
)
def test_what_is_copied_is_a_few_times_the_cache_and_bounded(cache: int | None, memory: int, size: int) -> None:
    assert copied_bytes(cache, memory) == size


MEMORY = """
import torch
from fastdcgan.limits import roofline
from fastdcgan.limits.memory import PeakMemory

roofline.third_level_cache = lambda threads: 8 * 2**20
roofline.measure_ceilings(seconds=0.001)  # what it loads stays
peak = PeakMemory(torch.device("cpu"))
roofline.measure_ceilings(seconds=0.001)
print(peak.mib())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is known on Linux only")
def test_measuring_takes_little_more_memory_than_four_times_the_cache() -> None:
    """Of 8 MiB here: 32 MiB, and about 30 for the convolutions and products. Arrays of MOST_COPIED would take 512."""
    measured = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(measured.stdout) < 100
