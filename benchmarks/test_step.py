"""Our training step against the reference's, in turns in one process: the step alone, without data.

Both enjoy this process's memory allocator, whatever its settings; `test_headline.py` gives the reference its own.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.ceiling import training_ceiling
from benchmarks.conditions import device
from benchmarks.contenders import Step, finisher, in_smallest_tiles, our_step, reference_step
from benchmarks.measure import Contender, InProcess, take_turns
from benchmarks.parity import parity
from benchmarks.plans import Technique, techniques, tuned_plan
from benchmarks.results import several, throughput
from fastdcgan.execution.plan import Plan, native_precision, own_kernels
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits.roofline import Ceilings


@pytest.mark.case("step")
@pytest.mark.extra
@pytest.mark.parametrize("batch", [64, 128, 256])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan32", "dcgan64", "dcgan128"])
def test_step(benchmark: BenchmarkFixture, case: Case, ceilings: Ceilings | None, name: str, batch: int) -> None:
    """The tuned plan."""
    arch = architecture(name)
    case.doing("choosing plans")
    plan = tuned_plan(arch, batch, device())
    case.doing("checking parity")
    facts = checked(arch, batch, plan, ceilings)
    measured = take_turns(
        benchmark, contenders(arch, batch, {"ours": our_step(arch, batch, plan, device())}), case=case
    )
    benchmark.extra_info.update(
        throughput(measured, suite="step", case=f"{name}, batch {batch}", images=batch, **facts)
    )


@pytest.mark.case("technique", weight=4.5)
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("name", ["dcgan64", pytest.param("dcgan28", marks=pytest.mark.extra)])
def test_techniques(benchmark: BenchmarkFixture, case: Case, ceilings: Ceilings | None, name: str, batch: int) -> None:
    """Each technique together with all before it, against the reference and against all before it without it.

    All take turns together, so that the reference need not be timed for each of them, nor each of them twice.
    """
    arch = architecture(name)
    possible = [technique for technique in techniques(native_precision(device())) if is_possible(technique.plan)]
    facts = []
    for technique in possible:
        case.doing(f"checking parity, {technique.name}")
        facts.append(checked(arch, batch, technique.plan, ceilings))
    names = ["reference", *(technique.name for technique in possible[:-1]), "ours"]
    steps = {name: step_with(technique, arch, batch) for name, technique in zip(names[1:], possible, strict=True)}
    together = take_turns(benchmark, contenders(arch, batch, steps), case=case)
    infos = []
    for number, technique in enumerate(possible):
        without, ours = names[number : number + 2]
        gain = together.against(without, ours)
        infos.append(
            throughput(
                together.among(reference="reference", ours=ours),
                suite="technique",
                case=f"{name}, batch {batch}, + {technique.name}",
                images=batch,
                technique=technique.name,
                technique_number=number,
                predicted_gain=round(technique.predicted_gain, 3),
                measured_gain=round(gain.speedup, 3),
                measured_gain_quartiles=[round(quartile, 3) for quartile in gain.speedup_quartiles],
                **facts[number],
            )
        )
    benchmark.extra_info.update(several(infos))


def is_possible(plan: Plan) -> bool:
    """Not where our kernels can't run."""
    return set(plan.kernels) <= set(own_kernels(device(), plan.precision))


def step_with(technique: Technique, arch: Architecture, batch: int) -> Step:
    """Our step with a technique and all those before it."""
    step = our_step(arch, batch, technique.plan, device())
    return in_smallest_tiles(step) if technique.smallest_tiles else step


def contenders(arch: Architecture, batch: int, steps: dict[str, Step]) -> dict[str, Contender]:
    """The reference, and these steps, by their names."""
    finish = finisher(device())
    steps = {"reference": reference_step(arch, batch, device())} | steps
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
