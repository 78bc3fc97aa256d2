"""Our training step against the reference's, on this machine: `pytest benchmarks --benchmark-only`.

Both start from weights of the same distribution and are fed the same pictures and noise, which are made beforehand:
this is the step alone, without data. The plan is the one that `fastdcgan train` would choose here; where the hardware
multiplies bf16, it is not the reference's precision, so read the speedup together with the plan.
"""

import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fastdcgan import models, reference
from fastdcgan.architecture import Architecture, architecture
from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.paired import Turns
from fastdcgan.plan import Plan, choose_plan, prepare
from fastdcgan.step import StepMetrics, train_step

BATCH = 64
WARM_UP = 1
PAIRS = {"dcgan28": 15, "dcgan64": 5}


@pytest.mark.parametrize("name", PAIRS)
def test_step(benchmark: BenchmarkFixture, name: str) -> None:
    arch = architecture(name)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = choose_plan(ExecutionConfig(), device)
    turns = in_turns(arch, plan, device)

    turns.warm_up(WARM_UP)
    # pytest-benchmark times our turn too, for its table; the reference takes its turn in the untimed setup.
    benchmark.pedantic(turns.time_ours, setup=turns.time_reference, rounds=PAIRS[name])

    times = turns.result()
    benchmark.extra_info.update(
        images_per_sec=round(BATCH / times.our_seconds, 1),
        reference_images_per_sec=round(BATCH / times.reference_seconds, 1),
        speedup=round(times.speedup, 3),
        speedup_quartiles=[round(quartile, 3) for quartile in times.speedup_quartiles],
        pairs=len(times.ours),
        batch=BATCH,
        plan=str(plan),
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        cpu=cpu_model(),
        load_average=load_average(),
        torch=torch.__version__,
        commit=commit(),
    )


def in_turns(arch: Architecture, plan: Plan, device: torch.device) -> Turns:
    """One step of each implementation, ready to be timed."""
    rng = torch.Generator().manual_seed(0)
    real_BCHW = torch.rand(BATCH, arch.channels, arch.resolution, arch.resolution, generator=rng).to(device) * 2 - 1
    z_BL = torch.randn(BATCH, arch.latent_dim, generator=rng).to(device)

    generator_layers, discriminator_layers = (
        reference.layers_28()
        if arch.name == "dcgan28"
        else reference.layers_64(arch.channels, arch.width, arch.latent_dim)
    )
    torch.manual_seed(0)
    G, D = reference.Generator(generator_layers).to(device), reference.Discriminator(discriminator_layers).to(device)
    reference.initialise(G)
    reference.initialise(D)
    optimizer_g, optimizer_d = reference.adam(G), reference.adam(D)

    state = prepare(plan, *models.build(arch, seed=0), RecipeConfig(), device)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    our_real_BCHW = real_BCHW.contiguous(memory_format=layout)

    def reference_step() -> dict[str, Tensor]:
        return reference.train_step(G, D, optimizer_g, optimizer_d, real_BCHW, z_BL)

    def our_step() -> StepMetrics:
        return train_step(state, our_real_BCHW, z_BL)

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    return Turns(reference_step, our_step, finish=finish)


def cpu_model() -> str:
    """As the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def load_average() -> float | None:
    """Processes that wanted a core over the last minute, ours among them; well above the cores, others were at work."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None


def commit() -> str:
    """The commit of this working tree, with a mark if files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
