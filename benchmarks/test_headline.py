"""The headline: the reference as its users run it, a process of its own with the allocator as it comes, against ours.

Each has a process, and they take turns; the one whose turn it isn't waits in a read. Ours gets the same environment:
what it does about memory it must do by itself.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.ceiling import training_ceiling
from benchmarks.conditions import device
from benchmarks.measure import take_turns
from benchmarks.parity import parity
from benchmarks.plans import tuned_plan
from benchmarks.processes import default_environment, worker
from benchmarks.results import throughput
from benchmarks.worker import command
from fastdcgan.config import PrecisionRequest
from fastdcgan.gan.architecture import architecture
from fastdcgan.limits.roofline import Ceilings

MOST_IDLE_SHARE = 0.02
"""Of a core, that a process may take from the other's turn. More, and the pair is no comparison."""


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_headline(
    benchmark: BenchmarkFixture, ceilings: Ceilings | None, name: str, batch: int, precision: PrecisionRequest
) -> None:
    """In the reference's own precision, and in the one that `fastdcgan train` chooses."""
    arch = architecture(name)
    plan = tuned_plan(arch, batch, device(), precision)
    if precision == "auto" and plan.precision == "fp32":
        pytest.skip("fp32 is what is chosen here: see the other")
    facts = parity(arch, plan)
    env = default_environment()
    with (
        worker(command("reference", name, batch), env) as reference,
        worker(command("ours", name, batch, plan), env) as ours,
    ):
        measured = take_turns(benchmark, {"reference": reference, "ours": ours}, turn_seconds=0.5, budgets=2)
        peak, reference_peak = ours.peak_memory_mib(), reference.peak_memory_mib()
        idle_shares = [share for share in (reference.idle_share(), ours.idle_share()) if share is not None]
    assert max(idle_shares, default=0.0) <= MOST_IDLE_SHARE, f"those who wait don't rest: {idle_shares}"
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="headline",
            case=f"{name}, batch {batch}, {plan.precision}",
            images=batch,
            ceiling=training_ceiling(ceilings, arch, batch, plan.precision),
            **facts,
            peak_memory_mib=round(peak, 1),
            reference_peak_memory_mib=round(reference_peak, 1),
            idle_shares=[round(share, 4) for share in idle_shares],
            plan=str(plan),
            arch=name,
            batch=batch,
        )
    )
