"""Every test that is marked `gpu`, run by pytest in a process of its own."""

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import suppress

from benchmarks.budget import Case
from benchmarks.conditions import ROOT
from benchmarks.gpu.journal import Record, read_journal
from benchmarks.gpu.outcomes import VARIABLE
from benchmarks.gpu.parts import Found, Session
from benchmarks.processes import kill

COMMAND = ("-m", "pytest", "tests", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu.outcomes")

# Without `--strict-config`: it refuses the settings of plugins that are not installed where all else is.
OPTIONS = ("--continue-on-collection-errors", "-o", "addopts=")


def run_tests(session: Session, case: Case, found: Found) -> None:
    """Run them and keep each one's outcome."""
    if importlib.util.find_spec("pytest") is None:
        found.problems.append("pytest is not installed: pip install 'fastdcgan[test]'")
        return
    outcomes, log = session.work / "tests.jsonl", session.work / "tests.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, *COMMAND, *OPTIONS],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, VARIABLE: str(outcomes)},
            start_new_session=True,
        ) as process,
    ):
        try:
            code = process.wait(timeout=max(1.0, case.latest - case.clock()))
        except subprocess.TimeoutExpired:
            found.problems.append("not all tests ended in time")
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            code = 0  # said already
        finally:
            kill(process)
    judge(read_journal(outcomes), code, found)
    if not found.records:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        found.problems.append(f"no test ran: {lines[-1] if lines else 'pytest said nothing'}")


def judge(outcomes: list[Record], code: int, found: Found) -> None:
    """What the outcomes and pytest's exit code mean: 0 and 1 are a whole run, 5 one without any test."""
    found.records += outcomes
    for each in outcomes:
        if each["outcome"] == "failed":
            # A file that needs a package which only other tests need.
            lacks = "::" not in each["item"] and each["why"].startswith("ModuleNotFoundError")
            (found.notes if lacks else found.problems).append(f"{each['item']}: {each['why']}")
    if code not in (0, 1, 5):
        found.problems.append(f"pytest ended with {code}")
