"""A run of the suite under pytest: each case has its share of the time, and what was measured is shown.

Whatever ends the run (a signal, a case that fails, the time), what was measured by then is kept.
"""

import argparse
import math
import os
import signal
import warnings
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.logger import PytestBenchmarkWarning
from rich.console import Console

from benchmarks.budget import MINUTES, Budget, Case, OutOfTimeError
from benchmarks.progress import Progress, clock_face
from benchmarks.results import results_in
from benchmarks.selection import MARKERS, Planned, planned, split
from benchmarks.table import figure, tables
from benchmarks.terminal import console_of

LEFT_OUT = "left out"

USUAL_SECONDS = 40.0
"""Of a case of weight 1 without a limit, all in all, until the first cases tell."""


def minutes(text: str) -> float:
    """A number above 0."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of minutes above 0")
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--minutes`."""
    parser.addoption(
        "--minutes",
        type=minutes,
        metavar="N",
        help="time for all benchmarks, shared out among the cases (default: $FASTDCGAN_BENCH_MINUTES, else "
        f"{MINUTES:g}, with --all no limit)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The run's time begins."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    # pytest-benchmark's own table is wide, and says nothing of the reference; --benchmark-verbose shows it.
    config.option.benchmark_quiet = True
    config.pluginmanager.register(Run(config), "fastdcgan-benchmarks")


def seconds_of_run(config: pytest.Config) -> float:
    """As asked for; infinite for all cases. Raises pytest.UsageError if the environment says no time."""
    asked: float | None = config.getoption("--minutes", None)
    if asked is None and (text := os.environ.get("FASTDCGAN_BENCH_MINUTES")):
        try:
            asked = minutes(text)
        except argparse.ArgumentTypeError as error:
            raise pytest.UsageError(f"FASTDCGAN_BENCH_MINUTES={error}") from None
    return 60 * (asked or (math.inf if config.getoption("--all", False) else MINUTES))


class Run:
    """The hooks of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._budget = Budget(seconds_of_run(config))
        self._console: Console | None = None
        self._progress: Progress | None = None
        self._to_come: dict[str, Planned] = {}
        self._case: Case | None = None
        self._name = ""
        self._weight = self._weight_done = 0.0
        self._left_to_all = 0
        self._late: list[str] = []
        self._infos: list[dict[str, Any]] = []
        self._stopped_by: str | None = None
        self._handlers: dict[int, Any] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """After -k and its like."""
        items[:], left_out = split(config, items, everything=config.getoption("--all", False))
        config.hook.pytest_deselected(items=left_out)
        self._left_to_all = len(left_out)
        self._to_come = {item.nodeid: case for item in items if (case := planned(item))}
        self._budget.weights = sum(case.weight for case in self._to_come.values())

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Progress is shown instead of pytest's dots; signals end the run in good order."""
        if not self._to_come or session.config.option.collectonly:
            return
        if reporter := session.config.pluginmanager.get_plugin("terminalreporter"):
            reporter.showfspath = False
            self._console = console_of(session.config, reporter)
            self._progress = Progress(
                self._console, len(self._to_come), lambda: self._budget.passed, lambda: self._time_left()
            )
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._on_signal)

    # --- A case -------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """A case has its share, from its fixtures on. An interrupt ends with it: pytest would show where it was."""
        if (case := self._to_come.pop(item.nodeid, None)) is None:
            return (yield)
        self._name, self._weight = case.name, case.weight
        to_come = sum(other.weight for other in self._to_come.values())
        self._case = self._budget.next_case(case.weight, to_come, self._doing, vital=case.suite == "headline")
        if self._progress:
            self._progress.begin(case.name)
        try:
            return (yield)
        except KeyboardInterrupt:
            self._stopped_by = self._stopped_by or "an interrupt"
            self._tell(f"  {self._name}: stopped before its fewest pairs were there")
            return True
        finally:
            self._case = None
            self._weight, self._weight_done = 0.0, self._weight_done + case.weight
            if self._stopped_by:
                item.session.shouldstop = f"stopped by {self._stopped_by}"

    def pytest_runtest_setup(self) -> None:
        """Nothing is begun for which there is hardly any time."""
        if self._case and self._budget.is_short(self._weight):
            pytest.skip(f"{LEFT_OUT}: the time was up")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self) -> Generator[None]:
        """What its share doesn't suffice for is left out."""
        try:
            return (yield)
        except OutOfTimeError as late:
            pytest.skip(f"{LEFT_OUT}: {late}")

    @pytest.fixture
    def case(self, benchmark: BenchmarkFixture) -> Iterator[Case]:
        """What this case may take, and how it tells what it is at."""
        yield self._case or Case()
        infos = results_in(benchmark.extra_info)
        benchmark.skipped = not infos  # else pytest-benchmark warns of a fixture that isn't used
        for info in infos:
            self._infos.append(info)
            self._tell(f"  {figure(info)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """What came to no result is said at once."""
        if self._case and not report.passed:
            self._tell(f"  {self._name}: {skip_reason(report) or 'failed, see below'}")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.TestReport, config: pytest.Config
    ) -> Generator[None, tuple[str, str, Any], tuple[str, str, Any]]:
        """No dots among the lines of progress. What is left out is not counted as skipped."""
        category, letter, word = yield
        if not self._case:
            return category, letter, word
        if (skip_reason(report) or "").startswith(LEFT_OUT):
            self._late.append(report.nodeid.rpartition("::")[2])
            category = LEFT_OUT
        return (category, letter, word) if config.get_verbosity() > 0 else (category, "", "")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """At the first signal the case may finish its turn, if it can state something then; else it ends now."""
        again = self._stopped_by is not None
        self._stopped_by = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if self._case is None:
            raise pytest.Session.Interrupted(f"stopped by {self._stopped_by}")
        if again or not self._case.enough:
            raise KeyboardInterrupt
        self._case.stop = True
        self._doing("ending after this turn (Ctrl-C: now)")

    def _doing(self, what: str) -> None:
        if self._progress:
            self._progress.doing(what)

    def _tell(self, text: str) -> None:
        if self._progress:
            self._progress.tell(text)

    def _time_left(self) -> str:
        if self._budget.seconds < math.inf:
            return f"at most {clock_face(self._budget.left)} left"
        per_weight = self._budget.passed / self._weight_done if self._weight_done else USUAL_SECONDS
        to_come = self._weight + sum(case.weight for case in self._to_come.values())
        return f"about {clock_face(per_weight * to_come)} left"

    # --- The end ------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """pytest-benchmark can't save a case that ended before its first pair, and then saves none."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._progress:
            self._progress.end()
        theirs = session.config.pluginmanager.get_plugin("pytest-benchmark")
        if theirs is not None:
            theirs.benchmarks[:] = filter(None, theirs.benchmarks)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PytestBenchmarkWarning)  # it saves nothing where there's nothing
            return (yield)

    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        """The results, and what was left out."""
        if not self._progress:
            return
        tell = self._progress.tell
        if self._infos and self._console:
            self._console.print()
            self._console.print(tables(self._infos))
        tell(f"{counted(len(self._infos), 'result')} in {clock_face(self._budget.passed)}.")
        if self._late:
            tell(f"Left out for want of time (--minutes gives more): {', '.join(self._late)}")
        if self._to_come:
            tell(f"Not begun: {counted(len(self._to_come), 'case')}.")
        if self._left_to_all:
            tell(f"Left out: {counted(self._left_to_all, 'case')}; pytest benchmarks --benchmark-only --all")
        if path := config.getoption("benchmark_json"):
            tell(f"All figures: python -m benchmarks.report {path}" if self._infos else f"{path} was not written.")


def counted(number: int, what: str) -> str:
    """ "1 case", "2 cases" """
    return f"{number} {what}{'s' * (number != 1)}"


def skip_reason(report: pytest.TestReport) -> str | None:
    """None for what wasn't skipped."""
    if not (report.skipped and isinstance(report.longrepr, tuple)):
        return None
    return report.longrepr[2].removeprefix("Skipped: ")
