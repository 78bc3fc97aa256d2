"""Two ranks of one thread against one rank of two, the same global batch: what dividing the work costs.

Each has processes of its own, and they take turns. BatchNorm's statistics are the global batch's, or each rank's own.
"""

from dataclasses import replace

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.conditions import cores, device
from benchmarks.measure import take_turns
from benchmarks.processes import worker
from benchmarks.ranks import command
from benchmarks.results import throughput
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import choose_plan


@pytest.mark.case("ranks")
@pytest.mark.extra
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("batch_norm", ["sync", "local"])
@pytest.mark.parametrize("name", ["dcgan28", "dcgan64"])
def test_two_ranks(benchmark: BenchmarkFixture, case: Case, name: str, batch_norm: str, batch: int) -> None:
    """In the precision that `fastdcgan train` chooses; the ratio is that of images per second, "ours" the two ranks."""
    if device().type != "cpu" or cores() < 2:
        pytest.skip("needs two cores and no GPU")
    alone, shared = (choose_plan(ExecutionConfig(), device(), ranks) for ranks in (1, 2))
    case.doing("starting processes")
    with (
        worker(command(1, name, batch, replace(alone, threads=2))) as one,
        worker(command(2, name, batch // 2, replace(shared, threads=1), batch_norm)) as two,
    ):
        measured = take_turns(benchmark, {"reference": one, "ours": two}, case=case, turn_seconds=0.5)
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="ranks",
            case=f"{name}, batch {batch}, {shared.precision}, BatchNorm {batch_norm}",
            images=batch,
            plan=str(shared),
            arch=name,
            batch=batch,
        )
    )
