"""What tests have counted, as a table at the end of the session."""

from collections import Counter
from collections.abc import Callable, Mapping

import pytest

FIGURES = pytest.StashKey[dict[str, Counter[str]]]()

Figure = Callable[[str, Mapping[str, int]], None]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure(of, counts)` adds to a line of the table."""

    def add(of: str, counts: Mapping[str, int]) -> None:
        request.config.stash.setdefault(FIGURES, {}).setdefault(of, Counter()).update(counts)

    return add


def tell_figures(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, if anything was counted."""
    if figures := config.stash.get(FIGURES, {}):
        width = max(map(len, figures))
        terminalreporter.section("figures")
        for of, counts in figures.items():
            said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
            terminalreporter.line(f"{of:{width}}  {said}")
