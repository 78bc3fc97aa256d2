"""Two ranks that are asked to stop, or killed: they go on as if nothing had happened."""

import os
import re
import signal
import sys
from pathlib import Path

import pytest
from launched import (
    QUICK,
    TWO_RANKS,
    assert_same_weights,
    last_step,
    launch,
    learned,
    losses,
    saved_steps,
    wait_for,
    write_pictures,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the launcher's processes through /proc"),
]

STEPS = 240

NEW_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it torchrun (2.15) serves one store for all restarts, and the new ranks find the addresses of the dead."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def undisturbed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    code, said = launch(*command(photos, out), "--checkpoint-every", 20).ended()
    assert code == 0, said
    return out


def command(photos: Path, out: Path) -> list[object]:
    return [*("--data", photos, "--out", out, "--images", STEPS * 8, *QUICK), *("--log-every", 5)]


def test_a_signal_to_the_launcher_or_to_one_rank_stops_all_at_one_step(
    undisturbed: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    rare = ("--checkpoint-every", 10 * STEPS)

    running = launch(*command(photos, out), *rare)
    wait_for(lambda: last_step(out) >= 20, running)
    running.send(signal.SIGTERM)  # torchrun passes it on
    code, said = running.ended(within=30)
    first = last_step(out)
    assert code != 0 and said.count(f"stopped after step {first:,}") == 1, said
    assert saved_steps(out) == [first] and first < STEPS

    running = launch(*command(photos, out), *rare)
    wait_for(lambda: last_step(out) >= first + 20, running)
    os.kill(running.workers()[1], signal.SIGUSR1)
    code, said = running.ended(within=30)
    second = last_step(out)
    assert code != 0 and said.count(f"stopped after step {second:,}") == 1, said
    assert said.count(f"exitcode  : {128 + signal.SIGUSR1}") == 2, said
    assert saved_steps(out) == [first, second] and second < STEPS

    code, said = launch(*command(photos, out), *rare).ended()
    assert code == 0, said
    assert_same_weights(learned(out, STEPS), learned(undisturbed, STEPS))


def test_a_killed_rank_costs_the_steps_since_the_last_checkpoint(
    undisturbed: Path, photos: Path, tmp_path: Path
) -> None:
    """Killed with -9 while both are in their steps; torchrun starts both again."""
    out = tmp_path / "killed"
    restarting = (*TWO_RANKS[:-2], "--max-restarts", "1", *TWO_RANKS[-2:])
    running = launch(*command(photos, out), "--checkpoint-every", 20, launcher=restarting, **NEW_STORE)
    wait_for(lambda: last_step(out) >= 50, running)
    os.kill(running.workers()[0], signal.SIGKILL)
    reached = last_step(out)
    code, said = running.ended()

    assert code == 0, said
    resumed = re.search(r"resuming  after step (\d+)", said)
    assert resumed and 0 < reached - int(resumed[1]) <= 20 + 5, said
    assert losses(out) == losses(undisturbed)
    assert_same_weights(learned(out, STEPS), learned(undisturbed, STEPS))
