"""Our training step against the reference's, in turns in one process: the step alone, without data.

Both enjoy this process's memory allocator, whatever its settings; `test_headline.py` gives the reference its own.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.ceiling import training_ceiling
from benchmarks.conditions import device
from benchmarks.contenders import finisher, our_step, reference_step
from benchmarks.measure import Contender, InProcess, take_turns
from benchmarks.parity import parity
from benchmarks.plans import TECHNIQUES, tuned_plan
from benchmarks.results import throughput
from fastdcgan.execution.plan import Plan, native_precision, own_kernels
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits.roofline import Ceilings


@pytest.mark.parametrize("batch", [64, 128, 256])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan32", "dcgan64", "dcgan128"])
def test_step(benchmark: BenchmarkFixture, ceilings: Ceilings | None, name: str, batch: int) -> None:
    """The tuned plan."""
    arch = architecture(name)
    plan = tuned_plan(arch, batch, device())
    facts = checked(arch, batch, plan, ceilings)
    measured = take_turns(benchmark, contenders(arch, batch, ours=plan))
    benchmark.extra_info.update(
        throughput(measured, suite="step", case=f"{name}, batch {batch}", images=batch, **facts)
    )


@pytest.mark.parametrize("number", range(len(TECHNIQUES)), ids=[technique.name for technique in TECHNIQUES])
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_technique(benchmark: BenchmarkFixture, ceilings: Ceilings | None, name: str, batch: int, number: int) -> None:
    """A technique together with all before it, against the reference and against all before it without it."""
    arch, technique = architecture(name), TECHNIQUES[number]
    if technique.plan.precision == "bf16" and native_precision(device()) == "fp32":
        pytest.skip("bf16 would be emulated here")
    if not set(technique.plan.kernels) <= set(own_kernels(device(), technique.plan.precision)):
        pytest.skip("our kernels are not for this machine")
    facts = checked(arch, batch, technique.plan, ceilings)
    without = {"without": TECHNIQUES[number - 1].plan} if number else {}
    measured = take_turns(benchmark, contenders(arch, batch, **without, ours=technique.plan))
    gain = measured.against("without" if number else "reference")
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="technique",
            case=f"{name}, batch {batch}, + {technique.name}",
            images=batch,
            technique=technique.name,
            technique_number=number,
            predicted_gain=round(technique.predicted_gain, 3),
            measured_gain=round(gain.speedup, 3),
            measured_gain_quartiles=[round(quartile, 3) for quartile in gain.speedup_quartiles],
            **facts,
        )
    )


def contenders(arch: Architecture, batch: int, **plans: Plan) -> dict[str, Contender]:
    """The reference, and our step under each of the plans, by their names."""
    finish = finisher(device())
    steps = {"reference": reference_step(arch, batch, device())} | {
        name: our_step(arch, batch, plan, device()) for name, plan in plans.items()
    }
    return {name: InProcess(step, finish) for name, step in steps.items()}


def checked(arch: Architecture, batch: int, plan: Plan, ceilings: Ceilings | None) -> dict[str, Any]:
    """What is known of a plan before it is timed. Raises ValueError if it is not the reference's step."""
    return {
        **parity(arch, plan),
        "ceiling": training_ceiling(ceilings, arch, batch, plan.precision),
        "plan": str(plan),
        "arch": arch.name,
        "batch": batch,
    }
