"""One sitting of a run, in a process of its own, in which something goes wrong at a moment that is chosen.

The processes are forked from one that has imported everything: that saves seconds a sitting.
"""

import ctypes
import errno
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import count, islice, pairwise
from multiprocessing import connection
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Literal, TypeVar

import forked
from left_behind import BATCH, STEPS
from torch import Tensor

from fastdcgan.execution.prepare import TakeStep
from fastdcgan.gan.step import StepMetrics

LONG = os.environ.get("FASTDCGAN_FAULTS") == "long"

PIECES = 4 if LONG else 1
"""In which the longest tests go."""

GROUP = "FASTDCGAN_TEST_GROUP"
"""A control group with little memory, in the environment."""

NOTES = "FASTDCGAN_TEST_NOTES"
"""In the environment: the folder for what a sitting has to tell of itself."""

Events = dict[str, int]
"""Of each part of a run's folder, and of the packs: how many times something in it is made, renamed or removed."""

CHANGES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
PARTS = {"run": "{out}/", "save": "{out}/checkpoints/.step-", "pack": "{cache}/packs/"}

T = TypeVar("T")

HANGS, HANGS_COMPILED = 120, 300
"""Seconds after which a sitting is taken to hang; one that compiles first waits for Inductor."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something happens just before the n-th change to a part of the run's folder or to the packs, or in the n-th
    step."""

    what: Literal["kill", "stop", "term", "lose", "memory", "clock", "remove", "fill", "read-only"]
    """stop: until SIGCONT comes. term: it is asked to end. lose: its pictures, from the step on. memory: it takes more
    than its control group has. clock: it jumps ahead by an hour. All for this process alone."""

    part: Literal["run", "save", "pack", "step"]
    n: int

    later: float = 0.0
    """Seconds: up to where no system call of Python's is, such as among the bytes of a tensor."""

    path: str = ""
    """The folder that is removed, or whose disk is filled: without one, the disk of the run."""

    once: str | None = None
    """What the run's folder must hold first, of what is written beside the steps: waited for."""


@dataclass(frozen=True, kw_only=True)
class Sitting:
    """How it ended."""

    code: int | None
    """-9 if it was killed."""

    error: str
    """What it wrote to stderr."""

    said: str
    """And to stdout."""

    events: Events
    seconds: float

    faulted: float | None
    ended: float
    """When the fault was, and when it had ended, by time.monotonic()."""


def train(data: Path | str, out: Path, *options: object) -> list[str]:
    """The same intervals as in test_exact: no two divide each other, and an epoch ends in between."""
    network = ("--arch", "dcgan16", "--width", 4, "--latent-dim", 6, "--batch-size", BATCH, "--flip")
    way = ("--device", "cpu", "--plan", "default", "--precision", "fp32", "--threads", 1)
    often = ("--images", STEPS * BATCH, "--log-every", 3, "--checkpoint-every", 4, "--sample-every", 2)
    return [str(a) for a in ("train", "--data", data, "--out", out, *network, *way, *often, *options)]


def sit(arguments: list[str], fault: Fault | None = None) -> Sitting:
    """A sitting from its beginning to its end."""
    return begin(arguments, fault).wait()


class begin:  # noqa: N801
    """A sitting that is under way.

    It is killed after `kill_after` seconds, unless it has ended. `environment`: what it finds there besides ours, such
    as which rank it is. `powerless`: root may do no more than others. Unless it `draws`, it leaves out plots and the
    report, which take longer than all the rest of such a run.
    """

    def __init__(
        self,
        arguments: list[str],
        fault: Fault | None = None,
        *,
        kill_after: float | None = None,
        draws: bool = False,
        environment: Mapping[str, str] | None = None,
        powerless: bool = False,
    ) -> None:
        self._notes = tempfile.TemporaryDirectory()
        self._start = time.perf_counter()
        self._is_killed = kill_after is not None
        compiles = {"on", "step"} & {after for it, after in pairwise(arguments) if it == "--compile"}
        hangs = HANGS_COMPILED if compiles else HANGS
        self.deadline = self._start + (hangs if kill_after is None else kill_after)
        told = dict(environment or {})
        self.process = forked.process(_in_the_child, arguments, fault, draws, self._notes.name, told, powerless)
        self.process.start()

    @property
    def pid(self) -> int:
        """Of its process."""
        assert self.process.pid is not None
        return self.process.pid

    def wait(self) -> Sitting:
        self.process.join(max(0.0, self.deadline - time.perf_counter()))
        seconds = time.perf_counter() - self._start
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            assert self._is_killed, "it hangs"
        ended = time.monotonic()
        with self._notes:
            notes = Path(self._notes.name)
            said, error, events = (
                path.read_text() if (path := notes / name).exists() else "" for name in ("stdout", "stderr", "events")
            )
            faulted = notes / "faulted"
            return Sitting(
                code=self.process.exitcode,
                error=error,
                said=said,
                events=json.loads(events or "{}"),
                seconds=seconds,
                faulted=float(faulted.read_text()) if faulted.exists() else None,
                ended=ended,
            )


Case = Generator[begin, Sitting, T]
"""Begins sittings one after the other, is sent how each ended, and returns what is to be known of them."""


def two_at_a_time(cases: Iterable[Case[T]]) -> Iterator[T]:
    """What each returned, in the order in which they end: a sitting keeps one core busy. A case must keep to itself.

    No more of them are begun than are asked for, but for one that may run beside the last.
    """
    waiting, running = iter(cases), dict[Case[T], begin]()
    try:
        while True:
            running.update((case, next(case)) for case in islice(waiting, 2 - len(running)))
            if not running:
                return
            soonest = min(sitting.deadline for sitting in running.values()) - time.perf_counter()
            ended = connection.wait([one.process.sentinel for one in running.values()], max(0.0, soonest))
            now = time.perf_counter()
            for case, sitting in list(running.items()):
                if sitting.process.sentinel not in ended and now < sitting.deadline:
                    continue
                del running[case]
                try:
                    running[case] = case.send(sitting.wait())
                except StopIteration as end:
                    yield end.value
    finally:
        for sitting in running.values():
            sitting.process.kill()
            sitting.process.join()


def filled(disk: Path) -> Path:
    """Take all the space that is left on a small disk, as others may do at once. Returns the file that does."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return filler


def _drop_capabilities() -> None:
    """Files of other users are then closed to root too, as capabilities(7) says, but not the interpreter it owns."""
    version_3, this_thread, none = 0x20080522, 0, bytes(24)
    assert ctypes.CDLL(None).capset(struct.pack("=Ii", version_3, this_thread), none) == 0


def _in_the_child(
    arguments: list[str],
    fault: Fault | None,
    draws: bool,
    notes: str,
    environment: dict[str, str],
    powerless: bool,
) -> None:
    os.environ |= {**environment, NOTES: notes}
    if powerless:
        _drop_capabilities()
    from fastdcgan import cli
    from fastdcgan.training import recorder, trainer

    if not draws:
        recorder.plot_losses = lambda records, path: path.touch()
        trainer.reporting = lambda *_, **__: nullcontext()
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(f"{notes}/{name}", os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    out = Path(arguments[arguments.index("--out") + 1])
    events = _watch(out, fault)
    if fault is not None and fault.what == "lose":
        trainer.real_batches = _losing(trainer.real_batches, fault, out)
    elif fault is not None and fault.part == "step":
        trainer.step_function = _failing(trainer.step_function, fault, out)
    try:
        cli.main(arguments)
    finally:
        Path(notes, "events").write_text(json.dumps(events))


def _watch(out: Path, fault: Fault | None) -> Events:
    events, lock = dict.fromkeys(PARTS, 0), Lock()
    cache = os.environ.get("FASTDCGAN_CACHE")
    beginnings = {part: beginning.format(out=out, cache=cache) for part, beginning in PARTS.items()}

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES or not isinstance(args[0], str | os.PathLike):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        path, due = os.fspath(args[0]), False
        with lock:
            for part, beginning in beginnings.items():
                if path.startswith(beginning):
                    events[part] += 1
                    due = due or (fault is not None and fault.part == part and fault.n == events[part])
        if due:
            assert fault is not None
            if fault.later:
                Thread(target=lambda: (time.sleep(fault.later), _do(fault, out)), daemon=True).start()
            else:
                _do(fault, out)

    sys.addaudithook(hook)
    return events


def _failing(step_function: Callable[..., TakeStep], fault: Fault, out: Path) -> Callable[..., TakeStep]:
    def with_a_fault(*arguments: Any) -> TakeStep:
        take, taken = step_function(*arguments), count(1)

        def step(real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
            if next(taken) == fault.n:
                while fault.once is not None and not (out / fault.once).exists():
                    time.sleep(0.01)
                _do(fault, out)
            return take(real_BCHW, z_BL)

        return step

    return with_a_fault


def _losing(real_batches: Callable[..., Generator[Tensor]], fault: Fault, out: Path) -> Callable[..., Iterator[Tensor]]:
    """As of a disk that is gone for this process alone."""

    def until_they_are_lost(*arguments: Any, **named: Any) -> Iterator[Tensor]:
        with closing(real_batches(*arguments, **named)) as batches:
            yield from islice(batches, fault.n - 1)
        while fault.once is not None and not (out / fault.once).exists():
            time.sleep(0.01)
        _note_when()
        raise OSError(errno.EIO, os.strerror(errno.EIO), "pictures.npy")

    return until_they_are_lost


def _note_when() -> None:
    Path(os.environ[NOTES], "faulted").write_text(str(time.monotonic()))


def _do(fault: Fault, out: Path) -> None:
    _note_when()
    match fault.what:
        case "kill" | "stop" | "term":
            number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}[fault.what]
            os.kill(os.getpid(), number)
        case "remove":
            shutil.rmtree(fault.path)
        case "memory":
            Path(os.environ[GROUP], "cgroup.procs").write_text(str(os.getpid()))
            taken = [bytearray(os.urandom(1 << 20) * 16) for _ in count()]
            raise AssertionError(len(taken))
        case "clock":
            now = time.time
            time.time = lambda: now() + 3600
        case "fill":
            filled(Path(fault.path) if fault.path else out.parent)
        case "read-only":
            # What is open stays so: only whole disks with nothing open for writing can be made read-only.
            subprocess.run(["mount", "--bind", out, out], check=True)
            # Busy while another thread has a file there open that it opened since.
            while subprocess.run(["mount", "-o", "remount,bind,ro", out], capture_output=True).returncode == 32:
                time.sleep(0.02)


def moments(seed: str, most: int, count: int) -> list[int]:
    """So many different ones of 1 ... most, or all there are, in order."""
    return sorted(random.Random(seed).sample(range(1, most + 1), min(count, most)))
