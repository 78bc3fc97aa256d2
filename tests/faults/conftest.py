"""The table of figures at the end, and a run that nothing was done to."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from left_behind import array, left_behind

from faults.sitting import Events, sit, train

FIGURES = pytest.StashKey[dict[str, Counter[str]]]()

Figure = Callable[[str, Mapping[str, int]], None]

Undisturbed = tuple[Path, dict[str, Any], Events]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(fault, counts)` adds to a line of the table."""

    def add(fault: str, counts: Mapping[str, int]) -> None:
        request.config.stash.setdefault(FIGURES, {}).setdefault(fault, Counter()).update(counts)

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if figures := config.stash.get(FIGURES, {}):
        width = max(map(len, figures))
        terminalreporter.section("faults")
        for fault, counts in figures.items():
            said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            terminalreporter.line(f"{fault:{width}}  {said}")


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
