"""A disk that is full, or read-only, from any write on: one line, and the same command goes on once there is room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from figures import Figure
from left_behind import left_behind, name_after_the_sitting

from faults.conftest import Undisturbed
from faults.sitting import LONG, PIECES, Case, Fault, begin, moments, train, two_at_a_time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk"),
]

WRITES = 10_000 if LONG else 8


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--recursive", str(folder)], check=True)


def goes_on(fault: Fault, reason: str, disk: Path, undisturbed: Undisturbed, pictures: Path) -> Case[bool]:
    """Returns whether the fault ended the run."""
    n = fault.n
    with small_disk(disk):
        run = disk / "run"
        sitting = yield begin(train(pictures, run), fault)
        assert sitting.code in (0, 2), (n, sitting.error)
        if sitting.code:
            assert sitting.error.count("\n") == 1 and reason in sitting.error, (n, sitting.error)
        if fault.what == "fill":
            (disk / "filler").unlink()
        else:
            subprocess.run(["umount", str(run)], check=True)
        if (run / "tensorboard").exists():
            name_after_the_sitting(run)
        again = yield begin(train(pictures, run))
        assert again.code == 0, (n, again.error)
        found, wanted = left_behind(run), undisturbed[1]
        assert found.keys() == wanted.keys(), n
        assert [name for name in wanted if found[name] != wanted[name]] == [], n
    return bool(sitting.code)


@pytest.mark.parametrize("piece", range(PIECES))
@pytest.mark.parametrize(("what", "reason"), [("fill", "No space left"), ("read-only", "Read-only file system")])
def test_at_each_write(
    what: Literal["fill", "read-only"],
    reason: str,
    piece: int,
    undisturbed: Undisturbed,
    pictures: Path,
    tmp_path: Path,
    figure: Figure,
) -> None:
    chosen = moments(what, undisturbed[2]["run"], WRITES)[piece::PIECES]
    faults = (Fault(what=what, part="run", n=n) for n in chosen)
    ended_early = sum(
        two_at_a_time(goes_on(fault, reason, tmp_path / f"disk {fault.n}", undisturbed, pictures) for fault in faults)
    )
    assert ended_early >= len(chosen) // 2
    figure(
        {"fill": "disk full from a write on", "read-only": "output read-only from a write on"}[what],
        {"runs": len(chosen), "ended in one line": ended_early, "gone on with and ended as undisturbed": len(chosen)},
    )
