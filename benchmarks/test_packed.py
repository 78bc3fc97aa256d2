"""Packed pictures: how fast they become batches, what packing takes, and what an epoch's order takes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.conditions import ROOT, cores
from benchmarks.loading import Stream, array_batches
from benchmarks.measure import take_turns
from benchmarks.photographs import link_photographs
from benchmarks.results import cost, throughput
from fastdcgan.data.array import ArraySource
from fastdcgan.data.arrays.npy_pictures import open_npy
from fastdcgan.data.order import batch_numbers
from fastdcgan.data.stream import Batching, real_batches
from fastdcgan.execution.allocator import keep_freed_memory
from fastdcgan.limits.memory import PeakMemory

PICTURES = 40_000
"""At 64x64x3 half a gigabyte: far more than a processor's caches hold, and less than the page cache does."""

STORED, REFILL_SECONDS = 4, 0.05
"""Batches that are gathered ahead, with one to spare, and how long they take."""


def files_to_pack() -> int:
    """How many files are packed."""
    return int(os.environ.get("FASTDCGAN_BENCH_FILES", "100000"))


@contextmanager
def one_core() -> Iterator[None]:
    """This thread and those it starts share a core, so that the thread that gathers ahead comes on top of nothing."""
    threads = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    torch.set_num_threads(1)
    if allowed is not None:
        os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file like a pack's: uint8 [N, 64, 64, 3] of noise."""
    path = tmp_path_factory.mktemp("packed") / "pictures.npy"
    rng = np.random.default_rng(0)
    pictures_NHWC = np.lib.format.open_memmap(path, "w+", np.uint8, (PICTURES, 64, 64, 3))
    for start in range(0, PICTURES, 4000):
        pictures_NHWC[start : start + 4000] = rng.integers(0, 256, pictures_NHWC[start : start + 4000].shape, np.uint8)
    del pictures_NHWC
    yield path
    path.unlink()


@pytest.mark.case("packed")
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("kind", ["fp32", "uint8"])
def test_packed(
    benchmark: BenchmarkFixture,
    case: Case,
    pack: Path,
    kind: Literal["fp32", "uint8"],
    batch: int,
) -> None:
    """The file is in the page cache: no disk is read. Freed memory is kept for both, as training on CPUs does.

    The DataLoader has it mapped, as is usual.
    """
    keep_freed_memory()
    source = ArraySource(open_npy(pack, str(pack)), description="", origin="", fingerprint="")
    loader = iter(array_batches(np.load(pack, mmap_mode="r"), batch, normalised=kind == "fp32"))
    numbers = batch_numbers(seed=0, count=PICTURES, global_batch=batch, rank=0, world_size=1, start_step=0)
    batches = (
        real_batches(source, Batching(seed=0, global_batch=batch), torch.device("cpu"))
        if kind == "fp32"
        else source.read(numbers)
    )
    with one_core(), closing(batches):
        case.doing("reading all once")
        for _ in range(2 * PICTURES // batch):
            next(batches)
        measured = take_turns(
            benchmark,
            {
                "reference": Stream(loader, lambda _: None, 1, 0.0),
                "ours": Stream(batches, lambda _: None, STORED, REFILL_SECONDS),
            },
            case=case,
            turn_seconds=0.5,
        )
    wanted = "fp32 in [-1, 1]" if kind == "fp32" else "uint8"
    benchmark.extra_info.update(
        throughput(
            measured,
            suite="packed",
            case=f"64x64 to {wanted}, batch {batch}",
            images=batch,
            plan=f"{PICTURES:,} pictures in the page cache, memory kept",
            batch=batch,
        )
    )


@pytest.mark.case("packing", weight=2)
@pytest.mark.extra
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("resolution", [64])
def test_packing(benchmark: Any, case: Case, photographs: Path, tmp_path: Path, resolution: int) -> None:
    """Once, in a process of its own, as the user's first run does; then again, as the second run does.

    The files are links to a few thousand, and in the page cache: a disk would come on top.
    """
    files, threads = files_to_pack(), min(8, cores())
    case.doing("linking files")
    link_photographs(photographs, tmp_path / "pictures", files)
    pack = partial(_pack, tmp_path / "pictures", resolution, threads)
    case.doing("packing")
    first = benchmark.pedantic(pack, rounds=1)
    case.say("opening again")
    again = pack()
    assert first["pictures"] == again["pictures"] == files
    benchmark.extra_info.update(
        cost(
            suite="packing",
            case=f"{files:,} JPEGs of 178x218 to {resolution}x{resolution}, {threads} threads",
            seconds=[first["seconds"]],
            peak_memory_mib=first["peak_memory_mib"],
            checked_per_sec=round(files / first["checked_seconds"], 1),
            packed_per_sec=round(files / (first["seconds"] - first["checked_seconds"]), 1),
            seconds_again=round(again["seconds"], 3),
            files=files,
        )
    )


def _pack(folder: Path, resolution: int, threads: int) -> dict[str, Any]:
    """What `packing.py` answers."""
    command = [sys.executable, "-m", "benchmarks.packing", str(folder), str(resolution), str(threads)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.case("order", weight=0.5)
@pytest.mark.extra
@pytest.mark.parametrize(("pictures", "times"), [(10**6, 5), (10**7, 5), (10**8, 1)])
def test_order(benchmark: Any, case: Case, pictures: int, times: int) -> None:
    """What the loop waits for where an epoch ends and the next begins; both orders are in memory at that moment."""
    batch, seconds = 128, []
    memory = PeakMemory(torch.device("cpu"))

    def begin_an_epoch() -> None:
        last = pictures // batch - 1
        numbers = batch_numbers(seed=0, count=pictures, global_batch=batch, rank=0, world_size=1, start_step=last)
        next(numbers)
        start = time.perf_counter()
        next(numbers)
        seconds.append(time.perf_counter() - start)

    case.doing("beginning an epoch")
    benchmark.pedantic(begin_an_epoch, rounds=times)
    benchmark.extra_info.update(
        cost(suite="order", case=f"{pictures:,} pictures", seconds=seconds, peak_memory_mib=memory.mib())
    )
