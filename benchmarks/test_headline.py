"""The headline: the reference as its users run it, a process of its own with the allocator as it comes, against ours.

Each has a process, and they take turns; the one whose turn it isn't waits in a read. Ours gets the same environment:
what it does about memory it must do by itself.
"""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
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


@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param("dcgan64", "auto", marks=pytest.mark.case("headline", weight=4)),
        pytest.param("dcgan64", "fp32", marks=pytest.mark.case("headline", weight=3)),
        pytest.param("dcgan28", "auto", marks=pytest.mark.case("headline", weight=2)),
        pytest.param("dcgan28", "fp32", marks=[pytest.mark.case("headline", weight=2), pytest.mark.extra]),
    ],
)
def test_headline(
    benchmark: BenchmarkFixture,
    case: Case,
    ceilings: Ceilings | None,
    name: str,
    batch: int,
    precision: PrecisionRequest,
) -> None:
    """In the precision that `fastdcgan train` chooses, and in the reference's own."""
    arch = architecture(name)
    case.doing("choosing plans")
    plan = tuned_plan(arch, batch, device(), precision)
    if precision == "fp32" and tuned_plan(arch, batch, device()).precision == "fp32":
        pytest.skip("fp32 is what is chosen here: see the other")
    case.doing("checking parity")
    facts = parity(arch, plan)
    env = default_environment()
    case.doing("starting processes")
    with (
        worker(command("reference", name, batch), env) as reference,
        worker(command("ours", name, batch, plan), env) as ours,
    ):
        measured = take_turns(benchmark, {"reference": reference, "ours": ours}, case=case, turn_seconds=0.5)
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
