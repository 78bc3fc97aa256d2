"""kill -9: what a run leaves behind at its end is bit for bit what it leaves when it is never killed."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from figures import Figure
from left_behind import left_behind, name_after_the_sitting

from faults.conftest import Undisturbed
from faults.sitting import LONG, PIECES, Case, Fault, begin, moments, train, two_at_a_time

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="kills processes"),
]

AT_ANY_TIME, DRAWING, IN_A_SAVE, CHANGES = (25, 10, 25, 10_000) if LONG else (8, 2, 8, 8)

SAME = "ended bit for bit as undisturbed"


def killed(
    undisturbed: Undisturbed, pictures: Path, run: Path, fault: Fault | None = None, **how: Any
) -> Case[tuple[bool, bool]]:
    """A sitting that is killed, and one that must end as if nothing had happened. The first may end before its time.

    Returns whether it was killed, and whether it left an unfinished checkpoint behind.
    """
    moment = fault or how
    first = yield begin(train(pictures, run), fault, **how)
    if "kill_after" in how and first.code != -9:
        return False, False
    unfinished = any((run / "checkpoints").glob(".step-*"))
    if (run / "tensorboard").exists():
        name_after_the_sitting(run)
    ended = yield begin(train(pictures, run))
    assert ended.code == 0, (moment, ended.error)
    found, wanted = left_behind(run), undisturbed[1]
    assert found.keys() == wanted.keys(), moment
    assert [name for name in wanted if found[name] != wanted[name]] == [], moment
    return first.code == -9, unfinished


@pytest.mark.parametrize(("count", "draws"), [(AT_ANY_TIME, False), (DRAWING, True)])
def test_at_any_time(
    count: int, draws: bool, undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """By the clock: while it starts, trains, samples, saves, or draws its plots and its report."""

    def timed(run: Path) -> Case[float]:
        return (yield begin(train(pictures, run), draws=draws)).seconds

    whole = min(two_at_a_time(timed(tmp_path / f"whole {number}") for number in range(2)))
    rng, done = random.Random(f"at any time, {draws}"), 0
    kills = (whole * rng.random() for _ in range(5 * count))  # some come to their end first
    for was_killed, _ in two_at_a_time(
        killed(undisturbed, pictures, tmp_path / f"{number}", kill_after=after, draws=draws)
        for number, after in enumerate(kills)
    ):
        done += was_killed
        if done == count:
            break
    assert done == count
    figure("kill -9 at any time", dict.fromkeys(("killed", SAME), done))


def test_inside_the_write_of_a_checkpoint(
    undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Before the folder is made, among the bytes of a file, before the manifest, before it gets its name ..."""
    rng, done, unfinished = random.Random("in a save"), 0, 0
    most = undisturbed[2]["save"]
    assert most >= 12, "of each of three checkpoints: its folder is made, two files are opened, it is renamed"

    def fault() -> Fault:
        n, later = rng.randint(1, most), rng.choice((0.0, rng.uniform(0, 0.002)))
        return Fault(what="kill", part="save", n=n, later=later)

    for was_killed, in_a_save in two_at_a_time(  # some have just ended
        killed(undisturbed, pictures, tmp_path / f"{number}", fault()) for number in range(5 * IN_A_SAVE)
    ):
        done += was_killed
        unfinished += in_a_save
        if unfinished == IN_A_SAVE:
            break
    assert unfinished == IN_A_SAVE
    figure(
        "kill -9 inside the write of a checkpoint",
        {"killed": done, "left an unfinished one behind": unfinished, SAME: done},
    )


@pytest.mark.parametrize("piece", range(PIECES))
def test_at_every_change_to_the_folder(
    piece: int, undisturbed: Undisturbed, pictures: Path, tmp_path: Path, figure: Figure
) -> None:
    """Just before something in it is made, renamed or removed."""
    chosen = moments("every change", undisturbed[2]["run"], CHANGES)[piece::PIECES]
    done = sum(
        was_killed
        for was_killed, _ in two_at_a_time(
            killed(undisturbed, pictures, tmp_path / f"{n}", Fault(what="kill", part="run", n=n)) for n in chosen
        )
    )
    assert done >= len(chosen) - 2
    figure("kill -9 before a change to the folder", dict.fromkeys(("killed", SAME), done))


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
