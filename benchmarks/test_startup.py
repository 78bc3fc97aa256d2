"""From the start of the process to the first step done, as `fastdcgan train` on a folder that it has seen before.

`import torch` alone, in a process of its own, takes turns with it and is subtracted: it's nothing that we could help.
"""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.budget import Case
from benchmarks.conditions import ROOT, device
from benchmarks.measure import take_turns
from benchmarks.photographs import write_photographs
from benchmarks.processes import kill
from benchmarks.results import duration
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import choose_plan

PAIRS = 5


class FirstStep:
    """Processes that train, each timed until its first line of metrics is there, as a contender."""

    def __init__(self, pictures: Path, runs: Path, arch: str, batch: int) -> None:
        self._options = ["--data", str(pictures), "--arch", arch, "--batch-size", str(batch), "--images", str(batch)]
        runs.mkdir()
        self._runs, self._number = runs, itertools.count()

    def time(self, steps: int) -> float:
        """See `measure.Contender`; a step is one start. Raises RuntimeError if the process gets nowhere."""
        return sum(self._once() for _ in range(steps))

    def _once(self) -> float:
        out = self._runs / str(next(self._number))
        metrics, log = out / "metrics.jsonl", self._runs / "log"
        start = time.perf_counter()
        with (
            log.open("w") as file,
            subprocess.Popen(
                [sys.executable, "-m", "fastdcgan", "train", *self._options, "--out", str(out)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for us, who may let it finish its turn
            ) as process,
        ):
            try:
                while not (metrics.exists() and metrics.stat().st_size):
                    if process.poll() is not None:
                        raise RuntimeError(f"training ended with {process.returncode}: {log.read_text()[-200:]}")
                    time.sleep(0.005)
                return time.perf_counter() - start
            finally:
                kill(process)  # sampling and saving are another matter


class ImportTorch:
    """Processes that import PyTorch, each timed until it says that it has, as a contender."""

    def time(self, steps: int) -> float:
        """See `measure.Contender`; a step is one start."""
        return sum(self._once() for _ in range(steps))

    def _once(self) -> float:
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-c", "import torch; print(flush=True)"], stdout=subprocess.PIPE, start_new_session=True
        ) as process:
            assert process.stdout
            process.stdout.readline()
            return time.perf_counter() - start


@pytest.mark.case("start-up", weight=3)
@pytest.mark.usefixtures("private_cache")
@pytest.mark.parametrize("batch", [128])
@pytest.mark.parametrize("name", ["dcgan64"])
def test_startup(benchmark: BenchmarkFixture, case: Case, tmp_path: Path, name: str, batch: int) -> None:
    """Caches are warm: the files, the folder's index, and compiled code where the plan has any."""
    case.doing("writing pictures")
    write_photographs(tmp_path / "pictures", 2 * batch)
    measured = take_turns(
        benchmark,
        {
            "import torch": ImportTorch(),
            "ours": FirstStep(tmp_path / "pictures", tmp_path / "runs", name, batch),
        },
        case=case,
        steps=1,
        most_pairs=PAIRS,
    )
    benchmark.extra_info.update(
        duration(
            measured,
            less="import torch",
            suite="start-up",
            case=f"{name}, batch {batch}, less import torch",
            plan=str(choose_plan(ExecutionConfig(), device())),  # too short a run to measure plans
            arch=name,
            batch=batch,
        )
    )
