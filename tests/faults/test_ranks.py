"""A fault of one rank among several: one line that names it, what can be saved is saved, and the run goes on.

All in one order of sums (--exact-ranks), so that a run may go on with any number of ranks, and ends as one process does
that nothing was done to.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import pytest
from figures import Figure
from left_behind import STEPS
from torch.distributed import TCPStore

from faults.sitting import GROUP, LONG, Fault, Sitting, begin, sit, train
from faults.test_disk import small_disk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="forks and kills processes"),
]

TIMEOUT, SHORTER = 6, 2
"""Seconds: --rank-timeout, and for how long a rank is stopped that then goes on."""

LEAVE_WITHIN = 15.0
"""Seconds in which all have left, after the fault, or after TIMEOUT where one hangs: 5 to find out which one it is."""

KILLED = r"rank {rank} \(process \d+ on .*\) was killed, by a signal or for want of memory"
STANDS = r"(what was learned until step \d+ is saved|the last good checkpoint is .*|no checkpoint was written yet)"

STOPPED = r"(stopped after step \d+|(rank {rank}: )?stopped before the first step was done: nothing is lost)"


@dataclass(frozen=True)
class Kind:
    """What happens to a rank, and how the run ends."""

    what: Any
    """Of the fault."""

    line: str
    """Without the beginning, and without that the same command goes on. Empty: the run goes on."""

    code: int = 2
    of: str = "one"
    """Which ranks: one, the first, all."""

    part: Any = "step"
    most: int = STEPS
    """It is in one of so many steps, or before one of so many changes."""


KINDS = {
    "killed": Kind("kill", KILLED),
    "stopped for longer than --rank-timeout": Kind("stop", rf"rank {{rank}} \(.*\) did not answer for {TIMEOUT} s"),
    "its pictures lost": Kind("lose", rf"rank {{rank}}: pictures.npy: Input/output error; {STANDS}"),
    "disk full": Kind("fill", rf"rank 0: .*No space left on device.*; {STANDS}", of="the first"),
    "killed in a save": Kind("kill", KILLED, of="the first", part="save"),
    "out of memory": Kind("memory", KILLED),
    "stopped for a while": Kind("stop", "", code=0),
    "asked to end": Kind("term", STOPPED, code=128 + signal.SIGTERM),
    "all asked to end": Kind("term", STOPPED, code=128 + signal.SIGTERM, of="all"),
    "the pictures of all lost": Kind(
        "lose", rf"rank 0: .*Input/output error \(and \d other ranks? likewise\); {STANDS}", of="all"
    ),
    "disk read-only": Kind("read-only", rf"rank 0: .*Read-only file system.*; {STANDS}", of="the first"),
    "clock an hour off": Kind("clock", "", code=0),
    "asked to end in the first step": Kind("term", STOPPED, code=128 + signal.SIGTERM, most=1),
    "all asked to end in the first step": Kind("term", STOPPED, code=128 + signal.SIGTERM, of="all", most=1),
    "asked to end in a save": Kind("term", STOPPED, code=128 + signal.SIGTERM, of="the first", part="save"),
}
QUICK = 4
"""Of these kinds, the first; LONG: all, five times each."""

OF_ROOT = {"fill", "read-only", "memory"}


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", list(KINDS)[: None if LONG else QUICK])
def test_a_fault_of_one(name: str, alone: dict[str, bytes], pictures: Path, tmp_path: Path, figure: Figure) -> None:
    kind, times, slowest = KINDS[name], 5 if LONG else 1, 0.0
    if kind.what in OF_ROOT and os.geteuid() != 0:
        pytest.skip("mounts a small disk, makes a control group")
    for number in range(times):
        rng = random.Random(f"{name} {number}")
        ranks, then = (rng.choice((2, 4)), rng.choice((1, 2, 4))) if LONG else (2, 2)
        rank = rng.randrange(ranks) if kind.of == "one" else 0
        fault = Fault(what=kind.what, part=kind.part, n=rng.randint(1, kind.most))
        moment = f"{name}: rank {rank} of {ranks}, {fault}, then {then}"
        with ExitStack() as made:
            folder, told = tmp_path / f"{number}", dict[str, str]()
            if kind.what in ("fill", "read-only"):
                folder = made.enter_context(small_disk(folder))
            if kind.what == "memory":
                told[GROUP] = str(made.enter_context(little_memory()))
            command = train(pictures, folder / "run", "--exact-ranks", 4, "--rank-timeout", TIMEOUT)
            faulty = set(range(ranks)) if kind.of == "all" else {rank}
            ended = together(command, dict.fromkeys(faulty, fault), ranks, told, for_long=kind.code != 0)
            left = [one for number, one in enumerate(ended) if kind.what != "stop" or number != rank]
            slowest = max(slowest, max(one.ended for one in left) - max(one.faulted or 0.0 for one in ended))
            check(kind, rank, ended, moment)
            check_saved(ended, folder / "run", moment)
            mend(kind, folder)
            again = together(command, {}, then, {})
            assert [one.code for one in again] == [0] * then, (moment, [one.error for one in again])
            if kind.what == "lose" and fault.n > 1 and kind.line:
                assert f"until step {fault.n - 1} is saved" in "".join(one.error for one in ended), moment
            found = results(folder / "run")
            assert found.keys() == alone.keys(), moment
            assert [file for file in alone if found[file] != alone[file]] == [], moment
    if kind.code == 0:
        ends = "went on"
    else:
        ends = f"all ended in one line, within {slowest:.1f} s"
        assert slowest < LEAVE_WITHIN + (TIMEOUT if kind.what == "stop" else 0), name
    figure(f"of 2 or 4 ranks one: {name}", dict.fromkeys(("runs", ends, "ended as undisturbed"), times))


def check(kind: Kind, rank: int, ended: list[Sitting], moment: str) -> None:
    """All have left, and one of them has said why."""
    said = [line for one in ended for line in one.error.splitlines()]
    lost = {rank} if kind.what in ("kill", "memory", "stop") and kind.code else set()
    codes = [one.code for one in ended]
    assert {code for number, code in enumerate(codes) if number not in lost} == {kind.code}, (moment, codes, said)
    assert not lost or codes[rank] in (-signal.SIGKILL, kind.code), (moment, codes)
    if not kind.line:
        assert said == [], moment
        return
    assert len(said) == 1, (moment, said)
    line = (
        r"fastdcgan: (error: )?"
        + kind.line.replace("{rank}", str(rank))
        + "(; the same command (goes on from .*|begins anew))?"
    )
    assert re.fullmatch(line, said[0]), (moment, said)


def check_saved(ended: list[Sitting], run: Path, moment: str) -> None:
    """What is said to be saved is there."""
    for step in re.findall(r"stopped after step (\d+)|until step (\d+) is saved", "".join(one.error for one in ended)):
        assert (run / "checkpoints" / f"step-{int(''.join(step)):08d}" / "manifest.json").exists(), moment


def together(
    command: list[str], faults: dict[int, Fault], ranks: int, told: dict[str, str], for_long: bool = False
) -> list[Sitting]:
    """Ranks as below a launcher: it holds the store by which they find each other, so that none takes it with it.

    One that is stopped goes on after a while; `for_long`: when the others have left.
    """
    if ranks == 1:
        return [sit(command)]
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    of_launcher = {"MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True", **told}
    environments = [one | of_launcher for one in forked.environments(ranks)]
    begun = [begin(command, faults.get(rank), environment=one) for rank, one in enumerate(environments)]
    hanging = {rank for rank, fault in faults.items() if fault.what == "stop"}
    for rank in hanging if not for_long else ():
        wait_until_stopped(begun[rank])
        time.sleep(SHORTER)
        os.kill(begun[rank].pid, signal.SIGCONT)
    for rank in hanging if for_long else ():
        wait_until_stopped(begun[rank])
    ended = {rank: one.wait() for rank, one in enumerate(begun) if rank not in hanging or not for_long}
    for rank in hanging - ended.keys():
        os.kill(begun[rank].pid, signal.SIGCONT)
        ended[rank] = begun[rank].wait()
    return [ended[rank] for rank in range(ranks)]


def wait_until_stopped(one: begin) -> None:
    while Path(f"/proc/{one.pid}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.02)


def mend(kind: Kind, folder: Path) -> None:
    """Make room on a disk that was full, and let one be written to."""
    (folder / "filler").unlink(missing_ok=True)
    if kind.what == "read-only":
        subprocess.run(["umount", str(folder / "run")], check=True)


@pytest.fixture(scope="module")
def alone(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = tmp_path_factory.mktemp("alone") / "run"
    ended = sit(train(pictures, run, "--exact-ranks", 4))
    assert ended.code == 0, ended.error
    return results(run)


def results(run: Path) -> dict[str, bytes]:
    """What a run has learned and drawn."""
    last = run / "checkpoints" / f"step-{STEPS:08d}"
    files = (*last.glob("*.safetensors"), *run.glob("samples/*"), run / "real.png")
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@contextmanager
def little_memory() -> Iterator[Path]:
    """A control group with less memory than a rank asks for."""
    for parent, limit in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
        folder = Path("/sys/fs/cgroup", parent, f"fastdcgan-ranks-{os.getpid()}")
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / limit).exists():
                (folder / limit).write_text(str(256 << 20))
                yield folder
                return
        finally:
            while (folder / "cgroup.procs").exists() and (folder / "cgroup.procs").read_text():
                time.sleep(0.02)
            folder.rmdir()
    pytest.skip("no control group of memory can be made here (root, and /sys/fs/cgroup writable)")
