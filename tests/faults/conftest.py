"""A run that nothing was done to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from left_behind import array, left_behind

from faults.sitting import Events, sit, train

Undisturbed = tuple[Path, dict[str, Any], Events]


@pytest.fixture(scope="session")
def pictures(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return array(photographs, tmp_path_factory.mktemp("array"))


@pytest.fixture(scope="session")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """A run, what it left behind, and what it did to its folder and to its checkpoints. Not to be changed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    sitting = sit(train(pictures, run))
    assert sitting.code == 0, sitting.error
    return run, left_behind(run), sitting.events


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
