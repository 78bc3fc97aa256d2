"""Pictures from a trained generator: `sampling.generate` against the reference's generator in evaluation mode."""

from dataclasses import replace

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.ceiling import sampling_ceiling
from benchmarks.conditions import device
from benchmarks.contenders import finisher, our_state
from benchmarks.measure import InProcess, take_turns
from benchmarks.parity import ROUNDING, relative_error
from benchmarks.plans import tuned_plan
from benchmarks.results import throughput
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.runs.sampling import generate
from fastdcgan.tuning.implementations import random_batch, reference_implementation

TRAINED_WITH = 128
"""The batch of the training, not of the grid: its plan is known from the other suites."""


@pytest.mark.case("sampling", weight=0.5)
@pytest.mark.parametrize("batch", [64])
@pytest.mark.parametrize(
    "name", ["dcgan64", "dcgan28", *(pytest.param(name, marks=pytest.mark.extra) for name in ("dcgan32", "dcgan128"))]
)
def test_sampling(benchmark: BenchmarkFixture, case: Case, ceilings: Ceilings | None, name: str, batch: int) -> None:
    """A grid as training makes it, with the memory layout of the plan for batches of TRAINED_WITH, in fp32."""
    arch = architecture(name)
    case.doing("choosing plans")
    plan = tuned_plan(arch, TRAINED_WITH, device())
    twin = reference_implementation(arch, device()).generator
    generator = our_state(arch, plan, device()).generator
    generator.load_state_dict(twin.state_dict())
    twin.eval()
    z_BL = random_batch(arch, batch, torch.device("cpu"))[1]

    def reference_generate() -> torch.Tensor:
        with torch.no_grad():
            pictures_BCHW: torch.Tensor = twin(z_BL.to(device())).cpu()
        return pictures_BCHW

    error = relative_error(generate(generator, z_BL), reference_generate())
    if not error <= ROUNDING:
        raise ValueError(f"{plan}: not timed, because {name}'s pictures are off by {error:.1e}")
    measured = take_turns(
        benchmark,
        {
            "reference": InProcess(reference_generate, finisher(device())),
            "ours": InProcess(lambda: generate(generator, z_BL), finisher(device())),
        },
        case=case,
    )
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="sampling",
            case=f"{name}, {batch} pictures",
            images=batch,
            ceiling=sampling_ceiling(ceilings, arch, "fp32"),
            parity_error=error,
            plan=str(replace(plan, precision="fp32")),
            arch=name,
            batch=batch,
        )
    )
