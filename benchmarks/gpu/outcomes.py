"""A plugin for pytest (`-p benchmarks.gpu.outcomes`): each test's outcome as a line of JSON, as soon as it is there."""

import json
import os
from pathlib import Path

import pytest

VARIABLE = "FASTDCGAN_OUTCOMES"
"""Names the file."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """A test's setup, call or end: the call counts, and what failed or was skipped around it."""
    if report.when == "call" or report.outcome != "passed":
        _write(report.nodeid, report.outcome, _why(report))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that can't be imported, or says that all its tests are to be skipped."""
    if report.outcome != "passed":
        _write(report.nodeid, report.outcome, _why(report))


def _why(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    lines = report.longreprtext.strip().splitlines()
    errors = [line.removeprefix("E ").strip() for line in lines if line.startswith("E ")]
    return (errors or lines or [""])[0][:300]


def _write(test: str, outcome: str, why: str) -> None:
    with Path(os.environ[VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "test", "item": test, "outcome": outcome, "why": why}) + "\n")
