"""`fastdcgan train` in a process of its own, for a limited time: what its figures say, and what CPU it takes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.conditions import ROOT
from benchmarks.processes import kill
from fastdcgan.runs.folder import RunFolder
from fastdcgan.telemetry.metrics import Record, read_metrics

LOOK_SECONDS = 0.02
"""Between two looks at a run."""

STOPPING_SECONDS, ENDING_SECONDS = 6.0, 12.0
"""For a run that was asked to stop: it writes a checkpoint and its report; usually, and at most."""

WARM_UP_SHARE = 0.25
"""Of the ticks, that the rate leaves out."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What came of it."""

    folder: RunFolder
    problem: str
    """Why it failed, in a line; empty if it didn't. A run that was stopped for its time has not failed."""

    stopped: bool
    seconds: float
    """From the process's start to its end."""

    first_line_seconds: float | None
    """From the process's start to its first line of metrics."""

    cores_busy: float | None
    """Of the CPU, on average from its first line of metrics on: of the process and those that it started."""

    records: list[Record]

    @property
    def images_per_sec(self) -> float | None:
        """By its own metrics; None if it has too few."""
        return steady_rate(self.records)

    @property
    def plan(self) -> str:
        """The plan that it used."""
        try:
            return str(json.loads(self.folder.config.read_text(encoding="utf-8"))["conditions"]["plan"])
        except (OSError, ValueError, KeyError):
            return "unknown"


def train(options: Sequence[str], out: Path, log: Path, limit_seconds: float, verb: str = "train") -> TrainingRun:
    """Run `fastdcgan train OPTIONS --out OUT`.

    Args:
        options: all but --out.
        out: the run's folder.
        log: where its output goes, after what is there.
        limit_seconds: for all of it. It is asked to stop, as by Ctrl-C, `STOPPING_SECONDS` before.
        verb: `profile`, instead of `train`.
    """
    folder = RunFolder(out)
    command = [sys.executable, "-m", "fastdcgan", verb, *options, "--out", str(out)]
    first_line: float | None = None
    used: list[tuple[float, float]] = []
    asked = False
    start = time.perf_counter()
    with (
        log.open("ab") as output,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):
        try:
            while process.poll() is None:
                now = time.perf_counter() - start
                if first_line is None and _has_content(folder.metrics):
                    first_line = now
                if first_line is not None and (not used or now - used[-1][0] > 0.25):
                    used += [(now, seconds)] if (seconds := cpu_seconds(process.pid)) is not None else []
                if now > limit_seconds - STOPPING_SECONDS and not asked:
                    os.killpg(process.pid, signal.SIGINT)
                    asked = True
                if now > limit_seconds - STOPPING_SECONDS + ENDING_SECONDS:
                    break
                time.sleep(LOOK_SECONDS)
        finally:
            ended = process.poll() is not None
            kill(process)
    if first_line is None and _has_content(folder.metrics):
        first_line = time.perf_counter() - start
    problem = ""
    if not ended:
        problem = f"did not stop within {ENDING_SECONDS:.0f} s"
    elif process.returncode and not asked:
        problem = f"ended with {process.returncode}: {last_line(log)}"
    return TrainingRun(
        folder=folder,
        problem=problem,
        stopped=asked,
        seconds=time.perf_counter() - start,
        first_line_seconds=first_line,
        cores_busy=cores_busy(used),
        records=read_metrics(folder.metrics) if folder.metrics.exists() else [],
    )


def steady_rate(records: Sequence[Record]) -> float | None:
    """Images per second by a run's own clock, over all its ticks but the first quarter; None for fewer than two."""
    if len(records) < 2:
        return None
    begin = records[min(len(records) - 2, int(WARM_UP_SHARE * len(records)))]
    seconds = records[-1].seconds - begin.seconds
    return (records[-1].images - begin.images) / seconds if seconds > 0 else None


def cores_busy(used: Sequence[tuple[float, float]]) -> float | None:
    """Seconds of CPU a second, from (clock, seconds of CPU so far)."""
    if len(used) < 2:
        return None
    (start, before), (end, after) = used[0], used[-1]
    return max(0.0, after - before) / (end - start)


def cpu_seconds(pid: int) -> float | None:
    """Seconds of CPU that a process and those it started have taken so far; None if it has ended."""
    try:
        process = psutil.Process(pid)
        total = 0.0
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                times = each.cpu_times()
                total += times.user + times.system
        return total
    except psutil.Error:
        return None


def last_line(log: Path) -> str:
    """What it said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
