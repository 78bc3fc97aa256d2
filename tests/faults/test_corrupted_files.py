"""Thousands of damaged checkpoints: none ends the loader but by its own error, none loads wrong numbers."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from corrupted import corrupt
from figures import Figure
from small_states import ARCH, everything, fresh, load, same, save, train

from fastdcgan.runs.checkpoints.record import Progress
from faults.sitting import LONG, PIECES

pytestmark = pytest.mark.slow

EACH = 2_500 if LONG else 1_500


@pytest.mark.timeout(0)
@pytest.mark.parametrize("piece", range(PIECES))
def test_fuzz(piece: int, tmp_path: Path, figure: Figure) -> None:
    trained, other = fresh(), fresh(seed=5)
    train(trained, 1, 2)
    train(other, 3, 4)
    ours = save(tmp_path / "ours", trained, ARCH, Progress(step=2, images=10), keep=3, run="ours")
    theirs = save(tmp_path / "other", other, ARCH, Progress(step=2, images=10), keep=3, run="other")
    wanted, state = everything(trained), fresh()
    before, ends = everything(state), Counter[str]()
    path = tmp_path / "damaged" / "step-00000002"
    for number in range(1_000 + piece * EACH, 1_000 + (piece + 1) * EACH):  # other numbers than the quick tests'
        done = corrupt(number, ours, theirs, path)
        try:
            load(path, state, ARCH, run="ours")
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error) and str(error).isprintable(), done
            assert same(everything(state), before), done
            ends["refused in one line"] += 1
        else:  # damage that changes nothing, as of a file by the same bytes, or of white space
            assert same(everything(state), wanted), done
            state = fresh()
            ends["loaded with the right numbers"] += 1
        shutil.rmtree(path)
    assert ends["refused in one line"] > EACH * 0.8
    figure("corrupted checkpoint files", {"damaged": EACH, **ends})
