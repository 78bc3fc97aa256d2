"""The table of figures at the end, and a run that nothing was done to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_exact import array, left_behind

from faults.sitting import Events, sit, train

FIGURES = pytest.StashKey[list[tuple[str, str]]]()

Figure = Callable[[str, str], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(fault, said)` adds a line to the table."""
    return lambda fault, said: request.config.stash.setdefault(FIGURES, []).append((fault, said))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(FIGURES, []):
        width = max(len(fault) for fault, _ in figures)
        terminalreporter.section("faults")
        for fault, said in figures:
            terminalreporter.line(f"{fault:{width}}  {said}")


@pytest.fixture(scope="session")
def pictures(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return array(photographs, tmp_path_factory.mktemp("array"))


@pytest.fixture(scope="session")
def undisturbed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Events]:
    """A run, what it left behind, and what it did to its folder and to its checkpoints. Not to be changed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    sitting = sit(train(pictures, run))
    assert sitting.code == 0, sitting.error
    return run, left_behind(run), sitting.events


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
