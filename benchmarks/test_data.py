"""A folder of JPEGs to batches in [-1, 1]: ours (DALI) against torchvision's ImageFolder in a DataLoader."""

from contextlib import closing
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.conditions import cores, device
from benchmarks.loading import Stream, torchvision_batches
from benchmarks.measure import take_turns
from benchmarks.results import throughput
from fastdcgan.data.open import open_source
from fastdcgan.data.stream import Batching, real_batches

SLOWEST = 500
"""Images per second and thread that even an old machine decodes."""


@pytest.mark.case("data", weight=1.5)
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("resolution", [64])
def test_data(benchmark: BenchmarkFixture, case: Case, photographs: Path, resolution: int, batch: int) -> None:
    """As many threads of ours as the other has workers."""
    threads = min(8, cores())
    # Two batches a worker wait in a DataLoader; in ours, three in DALI and one more than threads before it.
    stored = 2 * threads + 4
    refill_seconds = stored * batch / (SLOWEST * threads)
    loader = iter(torchvision_batches(photographs, resolution, batch, workers=threads))  # forks, so before any threads
    source = open_source(
        str(photographs), resolution=resolution, channels=3, device=str(device()), threads=threads, decoder="dali"
    )
    stream = real_batches(source, Batching(seed=0, global_batch=batch), device())
    with closing(stream):
        measured = take_turns(
            benchmark,
            {
                "reference": Stream(
                    (pictures.to(device()) for pictures, _ in loader), lambda _: None, stored, refill_seconds
                ),
                "ours": Stream(stream, lambda _: None, stored, refill_seconds),
            },
            case=case,
            turn_seconds=0.5,
        )
    del loader
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="data",
            case=f"178x218 JPEG to {resolution}x{resolution}, {threads} threads",
            images=batch,
            plan=source.description.partition(", ")[2],
            threads=threads,
            batch=batch,
        )
    )
