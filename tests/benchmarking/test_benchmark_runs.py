"""Runs of the suite under pytest, in a process of their own, with contenders that take no time."""

import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.conditions import ROOT

pytestmark = pytest.mark.slow

CONFTEST = """
from benchmarks.session import pytest_addoption as minutes, pytest_configure

def pytest_addoption(parser):
    parser.addoption("--all", action="store_true")
    minutes(parser)
"""

CASES = """
import os, pytest
from benchmarks.measure import take_turns
from benchmarks.results import throughput

class Claims:
    "Says that its steps took so long, and does something at one of its turns."

    def __init__(self, seconds, at=None, act=None):
        self.seconds, self.at, self.act, self.turns = seconds, at, act, 0

    def time(self, steps):
        self.turns += 1
        if self.turns == self.at:
            self.act()
        return steps * self.seconds

def measure(benchmark, case, suite, name, seconds=0.25, **act):
    contenders = {"reference": Claims(2 * seconds), "ours": Claims(seconds, **act)}
    measured = take_turns(benchmark, contenders, case=case)
    benchmark.extra_info.update(throughput(measured, suite=suite, case=name, images=64))
"""


@dataclass
class Ended:
    """A run that is over."""

    code: int
    text: str
    """All that it printed."""

    path: Path

    @property
    def pairs(self) -> dict[str, int]:
        """Case -> pairs, as a report reads them."""
        return {info["case"]: info["pairs"] for info in report.read(self.path)}

    def last_line(self, beginning: str) -> str:
        *_, line = (line for line in self.text.splitlines() if line.startswith(beginning))
        return line


Bench = Callable[..., Ended]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """`bench(cases, *arguments)` runs pytest on these cases."""

    def run(cases: str, *arguments: str, env: dict[str, str] | None = None, **more: Any) -> Ended:
        (tmp_path / "conftest.py").write_text(CONFTEST)
        (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
        (tmp_path / "test_cases.py").write_text(CASES + cases)
        path = tmp_path / "bench.json"
        # In a worker of pytest-xdist, pytest-benchmark measures nothing: these runs are not in one.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--benchmark-only", f"--benchmark-json={path}",
             *(arguments or (".",))],
            cwd=tmp_path, env=ours | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"} | (env or {}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, path)

    return run


# --- Selection --------------------------------------------------------------------------------------------------------

THREE = """
@pytest.mark.case("sampling")
def test_c(benchmark, case):
    measure(benchmark, case, "sampling", "usual")

@pytest.mark.case("step")
@pytest.mark.extra
def test_b(benchmark, case):
    measure(benchmark, case, "step", "rare")

@pytest.mark.case("headline", weight=3)
def test_a(benchmark, case):
    measure(benchmark, case, "headline", "first")
"""


def test_what_is_extra_is_left_to_all_and_that_is_said(bench: Bench) -> None:
    ended = bench(THREE)
    assert ended.code == 0
    assert ended.pairs.keys() == {"first", "usual"}
    assert ended.last_line("Left out: 1 case") == "Left out: 1 case; pytest benchmarks --benchmark-only --all"


def test_all_measures_all_headline_first(bench: Bench) -> None:
    ended = bench(THREE, "--all", ".")
    assert list(ended.pairs) == ["first", "rare", "usual"]
    assert "Left out" not in ended.text
    began = re.findall(r"case (\d of \d), (\w+)", ended.text)
    assert began == [("1 of 3", "headline"), ("2 of 3", "step"), ("3 of 3", "sampling")]


@pytest.mark.parametrize("arguments", [["test_cases.py"], ["test_cases.py::test_b"], ["-k", "test_b", "."]])
def test_cases_that_are_named_are_measured(bench: Bench, arguments: list[str]) -> None:
    ended = bench(THREE, *arguments)
    assert "rare" in ended.pairs
    assert "Left out" not in ended.text


# --- What is shown ----------------------------------------------------------------------------------------------------


def test_each_case_says_that_it_begins_and_how_much_time_is_left(bench: Bench) -> None:
    text = bench(THREE, "--minutes", "7").text
    assert re.search(r"^0:\d\d  case 1 of 2, headline: test_a \(at most 6:\d\d left\)$", text, re.MULTILINE)
    assert "  first: 2.00 (2.00 to 2.00) times" in text
    assert text.index("case 1 of 2") < text.index("  first: 2.00") < text.index("case 2 of 2")
    assert re.search(r"\(about \d+:\d\d left\)", bench(THREE, "--all", ".").text)


def test_one_table_of_80_columns_with_the_headline_first(bench: Bench) -> None:
    text = bench(THREE, "--all", ".").text
    lines = text.partition("The step, against the reference")[2].partition("3 results in")[0].splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.startswith(("first", "rare", "usual"))]
    assert rows == [[case, "256", "128", "2.00", "(2.00", "to", "2.00)"] for case in ("first", "rare", "usual")]
    assert "Name (time in" not in "\n".join(lines)  # pytest-benchmark's


def test_a_terminal_has_lines_that_live_and_vanish(tmp_path: Path, bench: Bench) -> None:
    def on_a_terminal(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ours, theirs = pty.openpty()
        with subprocess.Popen(command, cwd=options["cwd"], env=options["env"], stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            chunks = []
            try:
                while chunk := os.read(ours, 2**16):
                    chunks.append(chunk)
            except OSError:  # Linux: nobody writes any more
                pass
        os.close(ours)
        return subprocess.CompletedProcess(command, process.returncode, b"".join(chunks).decode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", on_a_terminal)
        ended = bench(THREE, env={"TERM": "xterm"})
    assert ended.code == 0
    assert re.search(r"case 1 of 2 .*passed, at most 9:\d\d left", ended.text)
    assert ended.text.count("\x1b[2K") >= 2  # lines that were erased
    assert "test_cases.py ." not in ended.text


@pytest.mark.parametrize(
    ("arguments", "env", "complaint"),
    [
        (["--minutes", "0"], {}, "--minutes: 0: must be a number of minutes above 0"),
        pytest.param(["--minutes", "ten"], {}, "--minutes: ten: must be", marks=pytest.mark.exhaustive),
        ([], {"FASTDCGAN_BENCH_MINUTES": "-1"}, "FASTDCGAN_BENCH_MINUTES=-1: must be"),
    ],
)
def test_a_time_that_is_none_costs_a_line(
    bench: Bench, arguments: list[str], env: dict[str, str], complaint: str
) -> None:
    ended = bench(THREE, *arguments, ".", env=env)
    assert ended.code == pytest.ExitCode.USAGE_ERROR
    assert complaint in ended.text
    assert "Traceback" not in ended.text


# --- What ends a run --------------------------------------------------------------------------------------------------

ENDS = """
import signal
from functools import partial

@pytest.mark.case("headline")
def test_before(benchmark, case):
    measure(benchmark, case, "headline", "before")

@pytest.mark.case("step")
def test_ends(benchmark, case):
    measure(benchmark, case, "step", "ends", at={at}, act={act})

@pytest.mark.case("technique")
def test_after(benchmark, case):
    measure(benchmark, case, "data", "after")
"""

WARM_UP = 2
"""Turns of each before the first pair."""


def signalled(number: signal.Signals, turn: int) -> str:
    return ENDS.format(at=turn, act=f"partial(os.kill, os.getpid(), {int(number)})")


@pytest.mark.parametrize(
    ("number", "name", "turn"),
    [
        (signal.SIGINT, "Ctrl-C", 1),
        (signal.SIGINT, "Ctrl-C", WARM_UP + 1),
        (signal.SIGINT, "Ctrl-C", WARM_UP + 3),
        (signal.SIGTERM, "SIGTERM", WARM_UP + 1),
    ],
)
def test_an_interrupt_keeps_what_was_measured(bench: Bench, number: signal.Signals, name: str, turn: int) -> None:
    ended = bench(signalled(number, turn))
    assert ended.code == pytest.ExitCode.INTERRUPTED
    assert ended.pairs == {"before": 15}
    assert "Traceback" not in ended.text and ".py:" not in ended.text
    assert len([line for line in ended.text.splitlines() if f"stopped by {name}" in line]) == 1
    assert ended.last_line("before").split()[1:4] == ["256", "128", "2.00"]
    assert ended.last_line("Not begun") == "Not begun: 1 case."


def test_an_interrupt_keeps_the_pairs_of_a_case_that_has_enough_of_them(bench: Bench) -> None:
    ended = bench(signalled(signal.SIGINT, WARM_UP + 5))
    assert ended.code == pytest.ExitCode.INTERRUPTED
    assert ended.pairs == {"before": 15, "ends": 5}
    assert ended.last_line("Not begun") == "Not begun: 1 case."


def test_a_second_interrupt_does_not_wait_for_the_turn_to_end(bench: Bench) -> None:
    twice = "lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]"
    ended = bench(ENDS.format(at=WARM_UP + 5, act=twice))
    assert ended.code == pytest.ExitCode.INTERRUPTED
    assert ended.pairs == {"before": 15}
    assert "Traceback" not in ended.text


@pytest.mark.parametrize("turn", [1, pytest.param(WARM_UP + 1, marks=pytest.mark.exhaustive), WARM_UP + 4])
def test_a_case_that_fails_costs_no_other(bench: Bench, turn: int) -> None:
    ended = bench(ENDS.format(at=turn, act="lambda: 1 / 0"))
    assert ended.code == pytest.ExitCode.TESTS_FAILED
    assert ended.pairs == {"before": 15, "after": 15}
    assert "ZeroDivisionError" in ended.text
    assert "min()" not in ended.text


def test_what_its_share_does_not_suffice_for_is_left_out_by_name(bench: Bench) -> None:
    cases = THREE.replace('"usual"', '"usual", seconds=1e6')
    ended = bench(cases)
    assert ended.code == 0
    assert ended.pairs.keys() == {"first"}
    assert ended.last_line("Left out for want of time") == "Left out for want of time (--minutes gives more): test_c"
    assert "its fewest pairs take 9000000 s" in ended.text
    assert bench(cases, "--all", ".").pairs.keys() == {"first", "rare", "usual"}
    assert bench(cases, "--all", "--minutes", "9", ".").pairs.keys() == {"first", "rare"}


def test_nothing_is_begun_once_the_time_is_up(bench: Bench) -> None:
    ended = bench(THREE, "--minutes", "1e-9", ".")
    assert ended.code == 0
    assert not ended.path.exists()
    assert "Warning" not in ended.text and f"{ended.path} was not written." in ended.text
    assert ended.text.count(": left out: the time was up") == 2
