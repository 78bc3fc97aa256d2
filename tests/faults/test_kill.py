"""kill -9: what a run leaves behind at its end is bit for bit what it leaves when it is never killed."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from test_exact import left_behind, name_after_the_sitting

from faults.conftest import Figure
from faults.sitting import LONG, Events, Fault, moments, sit, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes"),
]

AT_ANY_TIME, IN_A_SAVE = (25, 25) if LONG else (4, 6)

Undisturbed = tuple[Path, dict[str, Any], Events]


def assert_ends_as(undisturbed: Undisturbed, pictures: Path, run: Path, moment: object) -> None:
    if (run / "tensorboard").exists():
        name_after_the_sitting(run)
    ended = sit(train(pictures, run))
    assert ended.code == 0, (moment, ended.error)
    found, wanted = left_behind(run), undisturbed[1]
    assert found.keys() == wanted.keys(), moment
    assert [name for name in wanted if found[name] != wanted[name]] == [], moment


def test_at_any_time(undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure) -> None:
    """By the clock: while it starts, trains, samples, saves, or writes its report."""
    whole = min(sit(train(pictures, tmp_path / f"whole {number}")).seconds for number in range(2))
    rng, killed = random.Random("at any time"), 0
    for number in range(5 * AT_ANY_TIME):  # some come to their end first
        after, run = whole * rng.random(), tmp_path / f"{number}"
        if sit(train(pictures, run), kill_after=after).code == -9:
            assert_ends_as(undisturbed, pictures, run, f"after {after:.2f} of {whole:.2f} s")
            killed += 1
        if killed == AT_ANY_TIME:
            break
    assert killed == AT_ANY_TIME
    figure("kill -9 at any time", f"{killed} killed, {killed} ended bit for bit as undisturbed")


def test_inside_the_write_of_a_checkpoint(
    undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Before the folder is made, among the bytes of a file, before the manifest, before it gets its name ..."""
    rng, killed, unfinished = random.Random("in a save"), 0, 0
    most = undisturbed[2]["save"]
    assert most >= 12, "of each of three checkpoints: its folder is made, two files are opened, it is renamed"
    for number, n in enumerate(sorted(rng.choices(range(1, most + 1), k=IN_A_SAVE))):
        fault = Fault(what="kill", part="save", n=n, later=rng.choice((0.0, rng.uniform(0, 0.004))))
        run = tmp_path / f"{number}"
        killed += sit(train(pictures, run), fault).code == -9
        unfinished += any((run / "checkpoints").glob(".step-*"))
        assert_ends_as(undisturbed, pictures, run, fault)
    assert killed >= IN_A_SAVE - 2
    assert unfinished >= IN_A_SAVE // 2
    figure(
        "kill -9 inside the write of a checkpoint",
        f"{killed} killed, {unfinished} left an unfinished one behind, {killed} ended bit for bit as undisturbed",
    )


def test_at_every_change_to_the_folder(
    undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Just before something in it is made, renamed or removed."""
    chosen, killed = moments("every change", undisturbed[2]["run"], 10_000 if LONG else 5), 0
    for n in chosen:
        run = tmp_path / f"{n}"
        killed += sit(train(pictures, run), Fault(what="kill", part="run", n=n)).code == -9
        assert_ends_as(undisturbed, pictures, run, n)
    assert killed >= len(chosen) - 2
    figure("kill -9 before a change to the folder", f"{killed} killed, {killed} ended bit for bit as undisturbed")


def test_two_at_once(undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure) -> None:
    """Started in the same moment in one folder: one trains, the other is refused in one line."""
    from faults.sitting import begin

    rounds = 10 if LONG else 2
    for number in range(rounds):
        run = tmp_path / f"{number}"
        ended = [sitting.wait() for sitting in [begin(train(pictures, run)) for _ in range(2)]]
        assert sorted(sitting.code or 0 for sitting in ended) == [0, 2], [sitting.error for sitting in ended]
        complaint = next(sitting.error for sitting in ended if sitting.code == 2)
        assert complaint.count("\n") == 1 and f"{run} is in use by process " in complaint
        assert os.path.lexists(run / "config.json")
        assert left_behind(run) == undisturbed[1]
    figure("two runs started on one --out at once", f"{rounds} rounds: one refused, the other ended as undisturbed")
