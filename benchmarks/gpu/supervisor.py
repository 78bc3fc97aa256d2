"""The other end of `worker.py`: starts it, ends it when its time is over, and starts it again where it died."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.budget import Case
from benchmarks.conditions import ROOT
from benchmarks.gpu.journal import Journal, finished, left_out, read_journal, under_way
from benchmarks.gpu.parts import Found, Session
from benchmarks.gpu.worker import Request, write_request
from benchmarks.processes import kill

MOST_ATTEMPTS = 4

LEAST_SECONDS = 15.0
"""A worker is not started again for less: it takes a few to import PyTorch."""

GRACE_SECONDS = 10.0
"""That a worker may take beyond its time, for what it has begun."""

HANG_SECONDS = 90.0
"""An item that was under way for so long when its worker was stopped has failed; others are left out."""


def run_worker(part: str, session: Session, case: Case, found: Found, refused: list[str] | None = None) -> None:
    """Run a part in a process of its own; where that dies, again without what it died of.

    Results go into what is found, and so do failures, and the names of what was left out.
    """
    path = session.work / f"{part}.jsonl"
    for attempt in range(1, MOST_ATTEMPTS + 1):
        request = Request(
            device=str(session.device),
            seconds=max(0.0, case.end - case.clock()),
            skip=sorted(finished(read_journal(path))),
            attempt=attempt,
            refused=refused or [],
        )
        why = _attempt(part, request, session, case)
        if not why:
            break
        culprit = under_way(read_journal(path))
        if why is TIME_OVER:
            if culprit and time.time() - culprit["at"] > HANG_SECONDS:
                Journal(path).fail(culprit["item"], f"did not end within {time.time() - culprit['at']:.0f} s")
            break
        if culprit:
            Journal(path).fail(culprit["item"], f"the process {why}")
        elif not _has_failures(path, request.skip):
            found.problems.append(f"the process {why}")
            break
        if case.end - case.clock() < LEAST_SECONDS:
            break
    records = read_journal(path)
    found.records += [record for record in records if record["kind"] not in ("planned", "begun")]
    found.problems += [f"{record['item']}: {record['why']}" for record in records if record["kind"] == "failed"]
    if missing := left_out(records):
        found.notes.append(f"No time was left for {len(missing)}: {'; '.join(missing)}")


def _has_failures(path: Path, known: list[str]) -> bool:
    """Whether the last process has written down what it ended for: then the next can do without."""
    return any(each["kind"] == "failed" and each["item"] not in known for each in read_journal(path))


TIME_OVER = "was stopped, as its time was over"


def _attempt(part: str, request: Request, session: Session, case: Case) -> str:
    """One process. Returns why it ended before its work did; empty if it didn't."""
    asked, journal, log = (session.work / f"{part}.{ending}" for ending in ("json", "jsonl", "log"))
    write_request(request, asked)
    command = [sys.executable, "-m", "benchmarks.gpu.worker", part, str(asked), str(journal)]
    with (
        log.open("wb") as complaints,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=complaints, start_new_session=True
        ) as process,
    ):
        try:
            code = process.wait(timeout=max(1.0, case.end + GRACE_SECONDS - case.clock()))
        except subprocess.TimeoutExpired:
            return TIME_OVER
        finally:
            kill(process)
    if code == 0:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with {code}: {lines[-1][:300] if lines else 'it said nothing'}"
