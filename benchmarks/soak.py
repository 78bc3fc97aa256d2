"""Does a long run grow? `python -m benchmarks.soak [--steps 20000]`.

Trains the smallest network on the embedded faces by the command line, on a terminal that nobody sees: with sample
grids, checkpoints, figures, evaluations (pip install 'fastdcgan[metrics]'), a moving average, TensorBoard and the live
view far more often than by default. The process is watched from outside.
What is judged is the second half of the steps: in the first one caches fill up.

Exits with 1 if memory, open files or threads grow.
"""

import csv
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Thread

import numpy as np
import psutil
import tyro

from benchmarks.conditions import ROOT, commit, device, versions
from fastdcgan.limits.hardware import cpu_model

ARCH, WIDTH, BATCH = "dcgan16", 4, 4
"""So small that 20,000 steps are minutes: what grows, grows by the step and by what is written, not by the picture."""

WRITTEN, EVERY = 100, 200
"""Sample grids, and checkpoints, of a run, and the fewest steps between two."""

EVALUATIONS, EVALUATED = 10, 50
"""Of a run, and pictures in each: as few as can be measured."""

ALLOWED_MIB = 0.05
"""By which memory may grow in 1,000 steps."""

NOISE_MIB = 2.0
"""By which a process at rest may differ from itself: what the allocator keeps comes and goes."""

STANDARD_ERRORS = 3
"""By which a slope must differ from zero to be one."""

LEAST_SAMPLES = 20
"""In the second half of the steps: fewer say nothing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The process at one moment."""

    seconds: float
    step: int
    """The last one whose figures are written."""

    memory_mib: float
    """Resident."""

    fds: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Of a straight line through memory, in MiB per 1,000 steps."""

    mib: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.mib:+.3f} +- {self.standard_error:.3f} MiB per 1,000 steps"


def slope(samples: Sequence[Sample]) -> Slope:
    """The line of least squares through memory over steps."""
    thousands = [sample.step / 1000 for sample in samples]
    (mib, _), covariance = np.polyfit(thousands, [sample.memory_mib for sample in samples], 1, cov=True)
    return Slope(mib=float(mib), standard_error=float(covariance[0, 0]) ** 0.5)


def second_half(samples: Sequence[Sample], total: int) -> list[Sample]:
    """Those in which the second half of the steps was under way; none after the last, when the report is made.

    Raises:
        ValueError: there are too few.
    """
    found = [sample for sample in samples if total / 2 <= sample.step < total]
    if len(found) < LEAST_SAMPLES:
        raise ValueError(
            f"--steps {total}: the second half was over after {len(found)} looks at the process, which say nothing; "
            f"{LEAST_SAMPLES} are needed"
        )
    return found


def at_rest(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """The least value of a field in the first fifth and in the last: files are open while they are written.

    Args:
        samples: five at least.
        name: of the field.
    """
    values = [getattr(sample, name) for sample in samples]
    fifth = len(values) // 5
    return min(values[:fifth]), min(values[-fifth:])


def growths(samples: Sequence[Sample]) -> list[str]:
    """What grows, in words; nothing if all is flat.

    Args:
        samples: of the part of a run that is judged, in order.
    """
    found = []
    memory = slope(samples)
    thousands = (samples[-1].step - samples[0].step) / 1000
    allowed = max(ALLOWED_MIB, NOISE_MIB / thousands)
    if memory.mib > max(allowed, STANDARD_ERRORS * memory.standard_error):
        found.append(f"memory grows by {memory}, more than {allowed:.2g}")
    for name, words in (("fds", "file descriptors"), ("threads", "threads")):
        first, last = at_rest(samples, name)
        if last != first:
            found.append(f"{words}: {first} become {last}")
    return found


def last_step(metrics: Path) -> int:
    """Of the last whole line of a metrics.jsonl; 0 if there is none yet."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            whole = file.read().rpartition(b"\n")[0]
    except FileNotFoundError:
        return 0
    return int(json.loads(whole.rpartition(b"\n")[2])["step"]) if whole else 0


def watch(command: Sequence[str], folder: Path, interval: float = 1.0) -> list[Sample]:
    """Start a command on a terminal of its own, and look at its process until it ends.

    Args:
        command: trains a run.
        folder: the run's.
        interval: seconds between looks.

    Raises:
        ValueError: it failed.
    """
    samples = []
    begun = time.monotonic()
    with (
        terminal() as side,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=side, stderr=side, cwd=ROOT, env=os.environ | {"TERM": TERM}
        ) as process,
    ):
        seen = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess), seen.oneshot():  # it may end while we look
                samples.append(
                    Sample(
                        seconds=round(time.monotonic() - begun, 2),
                        step=last_step(folder / "metrics.jsonl"),
                        memory_mib=seen.memory_info().rss / 2**20,
                        fds=seen.num_fds(),
                        threads=seen.num_threads(),
                    )
                )
            time.sleep(interval)
    if process.returncode:
        log = folder / "run.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        raise ValueError(f"the run ended with {process.returncode}: {lines[-1] if lines else 'it said nothing'}")
    return samples


TERM = "xterm-256color"


@contextmanager
def terminal() -> Iterator[int]:
    """The programs' side of a terminal of 120 columns, whose other side takes whatever comes."""
    import fcntl  # these three: not on Windows, where the rest is tested too
    import pty
    import termios

    screen, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))

    def take() -> None:
        with suppress(OSError):  # how Linux says that nobody writes any more
            while os.read(screen, 2**16):
                pass

    reader = Thread(target=take, daemon=True)
    reader.start()
    try:
        yield side
    finally:
        os.close(side)
        reader.join()
        os.close(screen)


def written_every(steps: int) -> int:
    """Steps between sample grids, and between checkpoints."""
    return max(EVERY, steps // WRITTEN)


def evaluated_every(steps: int) -> int:
    """Steps between evaluations."""
    return max(EVERY, steps // EVALUATIONS)


def between_evaluations(samples: Iterable[Sample], steps: int) -> list[Sample]:
    """Those of a run of so many steps that see no evaluation: it takes hundreds of MiB for as long as it lasts."""
    return [sample for sample in samples if sample.step % evaluated_every(steps)]


def train_command(steps: int, out: Path) -> list[str]:
    """The run that is watched."""
    options = {
        "--arch": ARCH,
        "--width": WIDTH,
        "--data": "faces",
        "--batch-size": BATCH,
        "--images": steps * BATCH,
        "--plan": "default",
        "--precision": "fp32",
        "--sample-every": written_every(steps),
        "--checkpoint-every": written_every(steps),
        "--evaluate-every": evaluated_every(steps),
        "--evaluate-images": EVALUATED,
        "--log-every": 10,
        "--track": "tensorboard",
        "--out": out,
    }
    return [sys.executable, "-c", _MAIN, "train", *(str(word) for option in options.items() for word in option)]


_MAIN = "import fastdcgan.cli as cli, fastdcgan.training.recorder as recorder; recorder.PLOT_SECONDS = 0; cli.main()"
"""With a plot at each checkpoint: the first loads Matplotlib, 31 MiB and two files, which in a short run on a busy
machine would come in the half that is judged."""


def report(samples: Sequence[Sample], judged: Sequence[Sample], steps: int) -> str:
    """Markdown: what was seen of a run of so many steps, and the slope."""
    training = [sample for sample in samples if sample.step]
    quarters = [training[len(training) * part // 4] for part in range(4)] + [judged[-1]]
    rows = [
        f"| {sample.step:,} | {sample.seconds:.0f} | {sample.memory_mib:.1f} | {sample.fds} | {sample.threads} |"
        for sample in quarters
    ]
    packages = versions()
    (fds, last_fds), (threads, last_threads) = at_rest(judged, "fds"), at_rest(judged, "threads")
    memory, last_memory = at_rest(judged, "memory_mib")
    return "\n".join(
        [
            f"{ARCH}, width {WIDTH}, batch {BATCH}, faces; {steps:,} steps, a sample grid and a checkpoint every "
            f"{written_every(steps)}, {EVALUATIONS} evaluations.",
            f"{device()}, {cpu_model()}, PyTorch {packages['torch']}, Python {packages['python']}, commit {commit()}",
            "",
            "| step | after s | memory, MiB | file descriptors | threads |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Second half, {len(judged)} looks between evaluations: {slope(judged)}; from "
            f"{min(s.memory_mib for s in judged):.1f} to {max(s.memory_mib for s in judged):.1f} MiB.",
            f"At rest, in its first fifth and its last: {memory:.1f} and {last_memory:.1f} MiB, {fds} and {last_fds} "
            f"file descriptors, {threads} and {last_threads} threads.",
        ]
    )


def main(steps: int = 20_000, interval: float = 1.0, samples: Path | None = None) -> None:
    """Train, watch and judge.

    Args:
        steps: of the run.
        interval: seconds between looks at the process.
        samples: where to keep all that was seen, as CSV.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        seen = watch(train_command(steps, out), out, interval)
    if samples is not None:
        with samples.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [field.name for field in fields(Sample)])
            table.writeheader()
            table.writerows(asdict(sample) for sample in seen)
    judged = second_half(between_evaluations(seen, steps), steps)
    print(report(seen, judged, steps))
    found = growths(judged)
    print("\n".join(found) if found else "Nothing grows.")
    sys.exit(bool(found))


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m benchmarks.soak")
    except (ValueError, OSError) as problem:
        print(f"benchmarks.soak: error: {problem}", file=sys.stderr)
        sys.exit(2)
