"""A folder of JPEGs to updated weights, against the same step on data that is in memory already.

The "reference" of this result is our own step: its speed-up is how much of it is left when pictures must be decoded
or read from a pack, and noise be drawn on the side, and 1 would be perfect. Beside it stands the share of its time that
the training loop waits for data.
"""

import itertools
import statistics
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks.budget import Case
from benchmarks.ceiling import training_ceiling
from benchmarks.conditions import cores, device
from benchmarks.contenders import finisher, our_state
from benchmarks.loading import Stream
from benchmarks.measure import InProcess, take_turns
from benchmarks.parity import parity
from benchmarks.plans import tuned_plan
from benchmarks.results import quartiles, throughput
from fastdcgan.data.open import open_source
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.execution.prepare import step_function
from fastdcgan.gan.architecture import architecture
from fastdcgan.gan.randomness import Stream as Randomness
from fastdcgan.gan.randomness import latents
from fastdcgan.limits.roofline import Ceilings
from fastdcgan.tuning.implementations import random_batch


@pytest.mark.case("end to end", weight=1.75)
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("name", ["dcgan64"])
@pytest.mark.parametrize("way", ["streaming", "packed"])
def test_end_to_end(
    benchmark: BenchmarkFixture,
    case: Case,
    ceilings: Ceilings | None,
    photographs: Path,
    way: Literal["streaming", "packed"],
    name: str,
    batch: int,
) -> None:
    """The trainer's loop, in blocks of steps."""
    arch, where = architecture(name), device()
    case.doing("choosing plans")
    plan = tuned_plan(arch, batch, where)
    case.doing("checking parity")
    facts = parity(arch, plan)
    take_step = step_function(plan, our_state(arch, plan, where))
    case.doing("opening the folder")
    source = open_source(
        str(photographs),
        resolution=arch.resolution,
        channels=3,
        device=str(where),
        threads=min(8, cores()),
        cache="on" if way == "packed" else "off",
    )
    batches = real_batches(source, Batching(seed=0, global_batch=batch), where)
    in_memory_BCHW, in_memory_BL = next(batches), random_batch(arch, batch, where)[1]
    number = itertools.count(1)

    def step_as_trained(real_BCHW: Tensor) -> None:
        z_BL = latents(0, Randomness.NOISE_BY_TABLE, next(number), batch, arch.latent_dim).to(where, non_blocking=True)
        take_step(real_BCHW, z_BL)

    # Decoding is quicker than training, so the store is full but for what the last step took.
    ours = Stream(batches, step_as_trained, stored=1, refill_seconds=0.5, finish=finisher(where))
    with closing(batches):
        measured = take_turns(
            benchmark,
            {
                "reference": InProcess(lambda: take_step(in_memory_BCHW, in_memory_BL), finisher(where)),
                "ours": ours,
            },
            case=case,
            turn_seconds=2.0,
        )
    waiting = ours.waiting[-len(measured.seconds["ours"]) :]  # not that of the warm-up
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="end to end",
            case=f"{name}, batch {batch}, {way}",
            images=batch,
            ceiling=training_ceiling(ceilings, arch, batch, plan.precision),
            data_wait_fraction=round(statistics.median(waiting), 5),
            data_wait_fraction_quartiles=[round(quartile, 5) for quartile in quartiles(waiting)],
            **facts,
            plan=str(plan),
            arch=name,
            batch=batch,
        )
    )
