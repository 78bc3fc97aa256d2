"""The other end of `worker.py`: a contender in a process of its own, begun as a user's would be."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from benchmarks.conditions import ALLOCATOR_SETTINGS, ROOT

SETTLE_SECONDS = 0.05
"""OpenMP's threads look out for more work for a few milliseconds after their last, before they sleep."""


def default_environment() -> dict[str, str]:
    """This process's, without the settings of the memory allocator that most users don't know of."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ALLOCATOR_SETTINGS)}


@contextmanager
def worker(command: list[str], env: dict[str, str] | None = None) -> Iterator["Worker"]:
    """Start a worker; it ends with the context.

    Args:
        command: what to start.
        env: its environment; without it, ours.

    Raises:
        RuntimeError: it ended before it had taken its first step.
    """
    with (
        tempfile.TemporaryFile() as complaints,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            bufsize=1,
            env=env,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for us, who may let it finish its turn
        ) as process,
    ):
        try:
            yield Worker(process, complaints)
        except BaseException:
            kill(process)
            raise


def kill(process: "subprocess.Popen[Any]") -> None:
    """A process that was started in a session of its own, and all that it started, without waiting for its turn."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Worker:
    """A contender (see `measure.Contender`) that runs elsewhere. Raises RuntimeError when that has ended."""

    def __init__(self, process: "subprocess.Popen[str]", complaints: IO[bytes]) -> None:
        self._process, self._complaints = process, complaints
        self._warm_up: float | None = self._answer()["warm_up_seconds"]
        self._idle_cpu = self._idle_seconds = 0.0
        self._rests()

    def time(self, steps: int) -> float:
        """Seconds that the steps took by the worker's own clock. The very first call gives what its warm-up took."""
        if self._warm_up is not None:
            first, self._warm_up = self._warm_up, None
            return first
        self._idle_cpu += self._cpu_seconds() - self._cpu_at_rest
        self._idle_seconds += time.perf_counter() - self._at_rest
        taken: float = self.ask(f"step {steps}")["seconds"]
        self._rests()
        return taken

    def peak_memory_mib(self) -> float:
        """The most it needed so far."""
        found: float = self.ask("memory")["peak_memory_mib"]
        return found

    def idle_share(self) -> float | None:
        """Share of one core that it took while it was the others' turn; None if nobody counts, or it never waited."""
        return self._idle_cpu / self._idle_seconds if self._idle_seconds and self._stat.exists() else None

    def _rests(self) -> None:
        time.sleep(SETTLE_SECONDS)
        self._cpu_at_rest, self._at_rest = self._cpu_seconds(), time.perf_counter()

    @property
    def _stat(self) -> Path:
        return Path(f"/proc/{self._process.pid}/stat")

    def _cpu_seconds(self) -> float:
        if not self._stat.exists():
            return 0.0
        after_name = self._stat.read_text().rpartition(")")[2].split()
        user, system = after_name[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ask(self, request: str) -> dict[str, Any]:
        """A line to the worker, and its answer."""
        assert self._process.stdin
        try:
            self._process.stdin.write(request + "\n")
        except OSError as error:
            raise RuntimeError(self._obituary()) from error
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self._obituary())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return f"the worker ended with {code}: {lines[-1] if lines else 'it said nothing'}"
