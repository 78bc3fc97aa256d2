"""The proof on a GPU, in one command: `python -m benchmarks.gpu [--minutes 8] [--out benchmarks/results]`.

In this order, each with a share of the time: every test marked `gpu`; the parity of every plan with fp64 on the CPU;
the step's speed, ours and others', in turns; what a step launches; whole runs; a profile; the default run. Nothing is
downloaded. What fails is said at the end, and the rest goes on; then the exit code is 1.

It leaves a dated folder with report.md and results.json. Without a GPU the same runs on the CPU, smaller, and says so
on top and in the folder's name. FASTDCGAN_CACHE names a cache to keep; without it, a new one is used and removed.
"""

import json
import os
import re
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from benchmarks.budget import Budget
from benchmarks.conditions import ROOT, conditions
from benchmarks.gpu import whole_runs
from benchmarks.gpu.gpu_tests import run_tests
from benchmarks.gpu.machine import machine_facts
from benchmarks.gpu.page import page
from benchmarks.gpu.parts import Found, Part, Session, run_parts
from benchmarks.gpu.supervisor import run_worker
from benchmarks.progress import clock_face
from fastdcgan.limits.cores import usable_cores
from fastdcgan.limits.hardware import cpu_model
from fastdcgan.limits.roofline import KNOWN_GPUS, Ceilings
from fastdcgan.storage.files import write_replacing

FORMAT = 1
"""Of results.json."""

WRITING_SECONDS = 10.0
"""Kept for the page, and for removing what is not kept."""

LEAST_MINUTES = 1.0


def _parity(session: Session, case: Any, found: Found) -> None:
    run_worker("parity", session, case, found)
    wrong = [record["item"] for record in found.records if record["kind"] == "parity" and not record["passed"]]
    found.problems += [f"{item}: not what the reference computes" for item in wrong]


def _speed(session: Session, case: Any, found: Found) -> None:
    run_worker("speed", session, case, found, refused=_refused(session))


def _launches(session: Session, case: Any, found: Found) -> None:
    run_worker("launches", session, case, found, refused=_refused(session))


def _refused(session: Session) -> list[str]:
    return [record["item"] for record in session.records("parity", "parity") if not record["passed"]]


# Weights are seconds of the eight minutes.
PARTS = (
    Part(name="tests", title="Tests marked gpu", weight=70, run=run_tests),
    Part(name="parity", title="Parity of every plan", weight=70, run=_parity),
    Part(name="speed", title="Speed of the step", weight=150, run=_speed),
    Part(name="launches", title="What a step launches", weight=30, run=_launches),
    Part(name="end to end", title="Whole runs", weight=75, run=whole_runs.end_to_end),
    Part(name="profile", title="A profile", weight=30, run=whole_runs.profile),
    Part(name="default run", title="The default run", weight=50, run=whole_runs.default_run),
)


def main(
    minutes: float = 8.0, out: Path = ROOT / "benchmarks" / "results", device: Literal["auto", "cpu", "cuda"] = "auto"
) -> None:
    """Prove on this machine's GPU what the package promises of it, and write a dated report.

    Args:
        minutes: for all of it.
        out: the folder that the report's folder is made in.
        device: auto is CUDA where it is found, else the CPU.
    """
    if not LEAST_MINUTES <= minutes < float("inf"):
        raise ValueError(f"--minutes {minutes:g}: must be at least {LEAST_MINUTES:g}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: no CUDA device was found: use --device cpu to try the command out")
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    budget = Budget(60 * minutes - WRITING_SECONDS, sum(part.weight for part in PARTS))
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else cpu_model()
    say = partial(_say, budget)
    folder = new_folder(out, where.type == "cuda", name)
    say(f"{name}, {usable_cores()} cores: results go to {folder}")
    with tempfile.TemporaryDirectory(prefix="fastdcgan-gpu-") as work, own_cache(Path(work) / "cache"):
        session = Session(device=where, folder=folder, work=Path(work))
        facts = machine_facts(where)
        reports = run_parts(PARTS, session, budget, say)
        results = {
            "format": FORMAT,
            "command": shlex.join(["python", "-m", "benchmarks.gpu", *sys.argv[1:]]),
            "on_gpu": where.type == "cuda",
            "why_no_gpu": "" if where.type == "cuda" else why_no_gpu(device),
            "device_name": name,
            "minutes": minutes,
            "seconds": round(budget.passed, 1),
            "headline": str(session.axes.headline),
            "peaks": peaks(name, reports),
            "conditions": conditions(),
            "facts": facts,
            "parts": reports,
        }
        write_replacing(folder / "results.json", json.dumps(results, indent=1) + "\n")
        write_replacing(folder / "report.md", page(results))
        code = conclude(results, folder, say)
    sys.exit(code)


def conclude(results: dict[str, Any], folder: Path, say: Callable[[str], None]) -> int:
    """Say how it ended. Returns the exit code: 1 if anything failed or was left out as a whole."""
    say(f"The report: {folder / 'report.md'}")
    if not results["on_gpu"]:
        say("NO GPU was used: no figure in it is of a GPU.")
    bad = [part for part in results["parts"] if part["status"] != "done"]
    for part in bad:
        say(f"{part['status'].upper()}: {part['title']}: {'; '.join(part['problems'][:3])}")
    if not bad:
        say("All parts are done.")
    return 1 if bad else 0


def peaks(name: str, reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The peaks that predictions are made from: a known GPU's datasheet, else what was measured; None if neither is."""
    known = next((ceilings for key, ceilings in KNOWN_GPUS.items() if key in name), None)
    if known is not None:
        return asdict(known)
    rates = [each["rates"] for part in reports for each in part["records"] if each["kind"] == "rates"]
    if not rates:
        return None
    return asdict(Ceilings(name=f"the rates measured on this {name}", flops=rates[0]["flops"], bytes=rates[0]["bytes"]))


def why_no_gpu(asked: str) -> str:
    """Why the CPU was used, as far as PyTorch tells."""
    if asked == "cpu":
        return "--device cpu was asked for"
    if not torch.backends.cuda.is_built():
        return f"this PyTorch ({torch.__version__}) is built without CUDA"
    return f"PyTorch {torch.__version__}, built for CUDA {torch.version.cuda}, finds none"


def new_folder(out: Path, on_gpu: bool, name: str) -> Path:
    """Make a folder named by the date and the device. Raises ValueError if that can't be done."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    stem = f"{date.today().isoformat()}-{'gpu' if on_gpu else 'no-gpu-cpu'}-{words}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = out / (stem if number == 1 else f"{stem}-{number}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                number += 1
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """The cache that FASTDCGAN_CACHE names, else this one, for us and all that we start."""
    named = "FASTDCGAN_CACHE" in os.environ
    if not named:
        os.environ["FASTDCGAN_CACHE"] = str(folder)
    try:
        yield
    finally:
        if not named:
            del os.environ["FASTDCGAN_CACHE"]


def _say(budget: Budget, line: str) -> None:
    print(f"{clock_face(budget.passed)}  {line}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was found by then is written
    try:
        tyro.cli(main, prog="python -m benchmarks.gpu")
    except ValueError as problem:
        print(f"benchmarks.gpu: error: {problem}", file=sys.stderr)
        sys.exit(2)
