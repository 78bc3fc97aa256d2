"""Two ranks that are asked to stop, fail, or find another run in their folder."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from launched import QUICK, Launched, last_step, launch, metrics, saved_steps, wait_for, write_pictures

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the launcher's processes through /proc"),
]

PROMISED = 10.0
"""Seconds within which a run that is asked to stop has ended."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "photos")


def command(photos: Path, out: Path, steps: int = 100_000) -> list[object]:
    return [*("--data", photos, "--out", out, "--images", steps * 8, *QUICK), "--checkpoint-every", 20]


def test_ctrl_c_in_the_launchers_terminal(photos: Path, tmp_path: Path) -> None:
    """torchrun gets it, alone, and passes it on."""
    out = tmp_path / "out"
    running = launch(*command(photos, out))
    wait_for(lambda: last_step(out) >= 20, running)
    running.send(signal.SIGINT)
    _, said = running.ended(within=PROMISED)
    stopped = re.search(r"stopped after step ([\d,]+)", said)
    assert stopped, said
    assert saved_steps(out)[-1] == int(stopped[1].replace(",", ""))


def test_asked_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    """One rank waits in the middle of an operation for the other, which no Python handler interrupts."""
    out = tmp_path / "out"
    running = launch(*command(photos, out))
    wait_for(lambda: len(workers(running)) == 2, running)
    one, other = workers(running)
    os.kill(other, signal.SIGSTOP)  # so that the first one waits
    wait_for(lambda: handles(one, signal.SIGUSR1), running)
    time.sleep(1)  # till it has come to where it waits
    begun = time.monotonic()
    os.kill(one, signal.SIGTERM)
    wait_for(lambda: not alive(one), running)
    took = time.monotonic() - begun
    os.kill(other, signal.SIGCONT)
    _, said = running.ended()
    assert took < PROMISED, said
    assert saved_steps(out) == [], said


def test_a_nan_takes_both_ranks_back(photos: Path, tmp_path: Path) -> None:
    script = tmp_path / "poisoned.py"
    script.write_text(
        "from fastdcgan import cli\n"
        "from fastdcgan.training import trainer\n"
        "noise = trainer.noise\n"
        "def poisoned(run, step):\n"
        "    bad = step == 47 and not run.start.rollbacks and run.accelerator.process_index == 1\n"
        "    return noise(run, step) * (float('nan') if bad else 1)\n"
        "trainer.noise = poisoned\n"
        "cli.train_main()\n"
    )
    out = tmp_path / "out"
    code, said = launch(*command(photos, out, steps=60), "--on-nan", "rollback", script=script).ended()
    assert code == 0, said
    assert "became nan at step 47" in said and "rollback  1 of 3: after step 40" in said
    assert [(line["step"], line["rollbacks"]) for line in metrics(out)] == [
        *((10, 0), (20, 0), (30, 0), (40, 0), (50, 1), (60, 1))
    ]


def test_orphans_of_a_killed_launcher_keep_their_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    running = launch(*command(photos, out))
    wait_for(lambda: last_step(out) >= 20, running)
    orphans = workers(running)
    running.process.kill()
    running.process.wait()
    try:
        code, said = launch(*command(photos, out)).ended()
        assert code != 0 and "Traceback" not in said.split("failed")[0], said
        assert f"{out} is in use by process {orphans[0]} on " in said, said
    finally:
        os.kill(orphans[0], signal.SIGTERM)
    deadline = time.monotonic() + PROMISED
    while any(alive(pid) for pid in orphans) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in orphans)


def workers(running: Launched) -> list[int]:
    """Their ids by rank, as far as they have begun."""
    try:
        return running.workers()
    except (KeyError, OSError):
        return []


def handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def alive(pid: int) -> bool:
    """Whether a process, or what its launcher has not yet fetched of it, does anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False
