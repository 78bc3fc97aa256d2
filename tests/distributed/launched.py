"""Training with several processes on this machine, as a launcher starts them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from conftest import ROOT
from learned import assert_same_weights as assert_same_weights
from learned import learned as learned
from PIL import Image

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")

TWO_RANKS = (*TORCHRUN, "--standalone", "--nproc-per-node", "2")

TINY = ("--arch", "dcgan28", "--width", "8", "--batch-size", "8", "--precision", "fp32", "--device", "cpu")
QUICK = (*TINY, "--plan", "default", "--decoder", "pillow", "--track", "none", "--sample-every", "100000")

PATIENCE = 60.0
"""Seconds in which what is waited for must come."""


@dataclass
class Launched:
    """A launcher that runs, and what it said when it has ended."""

    process: subprocess.Popen[str]

    def send(self, number: signal.Signals) -> None:
        """To the launcher alone, not to what it started."""
        self.process.send_signal(number)

    def workers(self) -> list[int]:
        """Ids of the processes that the launcher started, by rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        by_rank = {environment(int(child))["RANK"]: int(child) for child in children}
        return [by_rank[rank] for rank in sorted(by_rank)]

    def ended(self, within: float = PATIENCE) -> tuple[int, str]:
        """Exit code, and all that was said."""
        try:
            said, _ = self.process.communicate(timeout=within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said


def launch(
    *command: object, launcher: tuple[str, ...] = TWO_RANKS, script: str | Path = "train.py", **env: str
) -> Launched:
    """Start training below a launcher."""
    environ = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    process = subprocess.Popen(
        [*launcher, str(ROOT / script), *map(str, command)],
        cwd=ROOT,
        env={**environ, "OMP_NUM_THREADS": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Launched(process)


def environment(pid: int) -> dict[str, str]:
    """Of a process."""
    entries = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def wait_for(happened: Callable[[], bool], launched: Launched) -> None:
    """Until something has happened. Fails if the launcher ends before, or it takes long."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if launched.process.poll() is not None or time.monotonic() > deadline:
            launched.process.kill()
            raise AssertionError(launched.process.communicate()[0])
        time.sleep(0.02)


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl; none if it isn't there yet."""
    file = run / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def last_step(run: Path) -> int:
    """The newest step that a run has written figures of."""
    return metrics(run)[-1]["step"] if metrics(run) else 0


def losses(run: Path) -> list[tuple[float, ...]]:
    """The curve: what must not depend on how a run was launched or interrupted."""
    return [(r["step"], r["loss_d"], r["loss_g"], r["d_real"], r["d_fake"]) for r in metrics(run)]


def saved_steps(run: Path) -> list[int]:
    """Steps of a run's checkpoints."""
    return sorted(int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


def write_pictures(folder: Path, count: int = 64) -> Path:
    """Grey gradients of 28x28, each turned another way."""
    folder.mkdir()
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    for number in range(count):
        angle = 2 * np.pi * number / count
        levels = 127.5 + 89 * (x * np.cos(angle) + y * np.sin(angle))
        Image.fromarray(levels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    return folder
