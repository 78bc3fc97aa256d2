"""kill -9: what a run leaves behind at its end is bit for bit what it leaves when it is never killed."""

import os
import random
import sys
from pathlib import Path

import pytest
from left_behind import left_behind, name_after_the_sitting

from faults.conftest import Figure, Undisturbed
from faults.sitting import LONG, PIECES, Fault, begin, moments, sit, train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes"),
]

AT_ANY_TIME, DRAWING, IN_A_SAVE, CHANGES = (25, 10, 25, 10_000) if LONG else (8, 2, 8, 8)

SAME = "ended bit for bit as undisturbed"


def assert_ends_as(undisturbed: Undisturbed, pictures: Path, run: Path, moment: object) -> None:
    if (run / "tensorboard").exists():
        name_after_the_sitting(run)
    ended = sit(train(pictures, run))
    assert ended.code == 0, (moment, ended.error)
    found, wanted = left_behind(run), undisturbed[1]
    assert found.keys() == wanted.keys(), moment
    assert [name for name in wanted if found[name] != wanted[name]] == [], moment


@pytest.mark.parametrize(("count", "draws"), [(AT_ANY_TIME, False), (DRAWING, True)])
def test_at_any_time(
    count: int, draws: bool, undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """By the clock: while it starts, trains, samples, saves, or draws its plots and its report."""
    whole = min(sit(train(pictures, tmp_path / f"whole {number}"), draws=draws).seconds for number in range(2))
    rng, killed = random.Random(f"at any time, {draws}"), 0
    for number in range(5 * count):  # some come to their end first
        after, run = whole * rng.random(), tmp_path / f"{number}"
        if sit(train(pictures, run), kill_after=after, draws=draws).code == -9:
            assert_ends_as(undisturbed, pictures, run, f"after {after:.2f} of {whole:.2f} s")
            killed += 1
        if killed == count:
            break
    assert killed == count
    figure("kill -9 at any time", dict.fromkeys(("killed", SAME), killed))


def test_inside_the_write_of_a_checkpoint(
    undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Before the folder is made, among the bytes of a file, before the manifest, before it gets its name ..."""
    rng, killed, unfinished = random.Random("in a save"), 0, 0
    most = undisturbed[2]["save"]
    assert most >= 12, "of each of three checkpoints: its folder is made, two files are opened, it is renamed"
    for number in range(5 * IN_A_SAVE):  # some have just ended
        n, later = rng.randint(1, most), rng.choice((0.0, rng.uniform(0, 0.002)))
        fault = Fault(what="kill", part="save", n=n, later=later)
        run = tmp_path / f"{number}"
        killed += sit(train(pictures, run), fault).code == -9
        unfinished += any((run / "checkpoints").glob(".step-*"))
        assert_ends_as(undisturbed, pictures, run, fault)
        if unfinished == IN_A_SAVE:
            break
    assert unfinished == IN_A_SAVE
    figure(
        "kill -9 inside the write of a checkpoint",
        {"killed": killed, "left an unfinished one behind": unfinished, SAME: killed},
    )


@pytest.mark.parametrize("piece", range(PIECES))
def test_at_every_change_to_the_folder(
    piece: int, undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Just before something in it is made, renamed or removed."""
    chosen, killed = moments("every change", undisturbed[2]["run"], CHANGES)[piece::PIECES], 0
    for n in chosen:
        run = tmp_path / f"{n}"
        killed += sit(train(pictures, run), Fault(what="kill", part="run", n=n)).code == -9
        assert_ends_as(undisturbed, pictures, run, n)
    assert killed >= len(chosen) - 2
    figure("kill -9 before a change to the folder", dict.fromkeys(("killed", SAME), killed))


def test_two_at_once(undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure) -> None:
    """Started in the same moment in one folder: one trains, the other is refused in one line.

    Or it begins when the first is done already, on a busy machine, and finds nothing left to do.
    """
    rounds, refused = 10 if LONG else 2, 0
    for number in range(rounds):
        run = tmp_path / f"{number}"
        ended = [sitting.wait() for sitting in [begin(train(pictures, run)) for _ in range(2)]]
        codes = sorted(sitting.code or 0 for sitting in ended)
        if codes == [0, 2]:
            complaint = next(sitting.error for sitting in ended if sitting.code == 2)
            assert complaint.count("\n") == 1 and f"{run} is in use by process " in complaint
            refused += 1
        else:
            assert codes == [0, 0], [sitting.error for sitting in ended]
            assert sum("Nothing to do" in sitting.said for sitting in ended) == 1
        assert os.path.lexists(run / "config.json")
        assert left_behind(run) == undisturbed[1]
    figure(
        "two runs started on one --out at once",
        {"pairs": rounds, "refused in one line": refused, "ended as undisturbed": rounds},
    )
