"""Whole runs through the command line: end to end from packed faces, a profile, and the default run with its grid."""

import shutil
import subprocess
import sys
import time

import torch
from PIL import Image

from benchmarks.budget import Case
from benchmarks.conditions import ROOT
from benchmarks.gpu.choice import remember_fastest
from benchmarks.gpu.parts import Found, Session
from benchmarks.gpu.training_run import TrainingRun, last_line, train
from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.data.faces.dataset import faces_folder

MOST_TRACE_BYTES = 3 * 2**20
"""A larger trace stays out of the results."""

USUAL_STEPS = 300
"""Of an end-to-end run where the step's rate isn't known."""

LEAST_SECONDS = 15.0
"""A run begins with the import of PyTorch: for less it is not begun."""

LONGEST_SECONDS = 10.0
"""Of the training in an end-to-end run, by the step's rate."""


def end_to_end(session: Session, case: Case, found: Found) -> None:
    """Train from a pack, then once more for one step, then with DALI: the run's own figures against the step's."""
    if not pack_faces(session, case, found):
        return
    chosen = remember_fastest(session)
    if chosen is None:
        found.notes.append("The step's speed is not known from above: the plan is the one by the rules")
    step_rate = chosen.images_per_sec if chosen else None
    batch = session.axes.headline.batch

    def run(way: str, share: float, *options: str) -> None:
        """In a share of the time that is left."""
        limit = share * max(1.0, case.end - case.clock())
        if limit < LEAST_SECONDS:
            found.notes.append(f"{way}: no time was left")
            return
        images = USUAL_STEPS * batch if step_rate is None else int(min(LONGEST_SECONDS, limit / 2) * step_rate)
        length = () if "--images" in options else ("--images", str(max(20 * batch, images)))
        done = train(
            [*headline_options(session), *options, *length],
            session.work / f"end-to-end-{way.replace(' ', '-')}",
            session.work / "end-to-end.log",
            limit,
        )
        if done.problem:
            found.problems.append(f"{way}: {done.problem}")
        elif not done.records:
            found.problems.append(f"{way}: no step was done within {limit:.0f} s")
        rate = done.images_per_sec
        found.records.append(
            {
                "kind": "end to end",
                "way": way,
                "plan": done.plan,
                "images_per_sec": rate,
                "step_images_per_sec": step_rate,
                "of_the_step": rate / step_rate if rate and step_rate else None,
                "data_wait_fraction": done.records[-1].data_wait_fraction if done.records else None,
                "first_line_seconds": done.first_line_seconds,
                "seconds": round(done.seconds, 1),
                "training_seconds": done.records[-1].seconds if done.records else None,
                "images": done.records[-1].images if done.records else 0,
                "cores_busy": done.cores_busy,
                "stopped": done.stopped,
            }
        )
        case.say(f"  {way}: {f'{rate:,.0f} images/s' if rate else f'{done.seconds:.1f} s'}")

    run("packed faces", 0.6, "--data", "faces", "--data-cache", "on")
    run("one step, all caches warm", 0.7, "--data", "faces", "--data-cache", "on", "--images", str(batch))
    if dali_available():
        run("JPEGs by DALI", 1.0, "--data", str(faces_folder()), "--data-cache", "off", "--decoder", "dali")
    else:
        found.notes.append("DALI is not installed here: decoding by it was not measured")


def pack_faces(session: Session, case: Case, found: Found) -> bool:
    """Draw the faces and pack them, for all runs that follow. Returns whether they are there."""
    cell, begun = session.axes.headline, time.perf_counter()
    command = ["pack", "faces", "--resolution", str(cell.geometry.resolution)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fastdcgan", *command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=max(1.0, case.latest - case.clock()),
        )
    except subprocess.TimeoutExpired:
        found.problems.append("the faces could not be drawn and packed in time")
        return False
    seconds = time.perf_counter() - begun
    found.records.append({"kind": "packing", "seconds": round(seconds, 1)})
    case.say(f"  faces drawn and packed in {seconds:.1f} s")
    if done.returncode:
        found.problems.append(f"fastdcgan pack faces ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    return done.returncode == 0


def profile(session: Session, case: Case, found: Found) -> None:
    """Some steps of the headline under PyTorch's profiler; its summary and plot go beside the page."""
    log = session.work / "profile.log"
    done = train(
        [*headline_options(session), "--data", "faces"],
        session.work / "profiled",
        log,
        max(5.0, case.end - case.clock()),
        verb="profile",
    )
    written = session.work / "profiled" / "profile"
    if not (written / "summary.txt").exists():
        found.problems.append(done.problem or f"no summary was written: {last_line(log)}")
        return
    kept = []
    for name in ("summary.txt", "summary.json", "memory.png", "trace.json.gz"):
        path = written / name
        if path.exists() and path.stat().st_size <= MOST_TRACE_BYTES:
            shutil.copy2(path, session.folder / f"profile-{name}")
            kept.append(f"profile-{name}")
        else:
            found.notes.append(f"{name} was not kept: {'too large' if path.exists() else 'it was not written'}")
    text = (written / "summary.txt").read_text(encoding="utf-8")
    found.records.append({"kind": "profile", "summary": text, "files": kept})


def default_run(session: Session, case: Case, found: Found) -> None:
    """`fastdcgan train`, as a user begins: the default number of images, then more while there is time."""
    out, log = session.work / "faces", session.work / "faces.log"
    common = ["--device", session.device.type, "--track", "none"]
    begun = time.perf_counter()
    first = done = train(common, out, log, max(10.0, case.end - case.clock()))
    left, rate = case.end - case.clock(), first.images_per_sec
    if not first.problem and not first.stopped and rate and left > 2 * LEAST_SECONDS:
        _keep_grid(session, found, first, "default")
        more = first.records[-1].images + int(0.6 * left * rate)
        done = train([*common, "--images", str(more)], out, log, left)
    _keep_grid(session, found, done, "last")
    for problem in {first.problem, done.problem} - {""}:
        found.problems.append(problem)
    found.records.append(
        {
            "kind": "default run",
            "plan": done.plan,
            "images": done.records[-1].images if done.records else 0,
            "images_per_sec": first.images_per_sec,
            "seconds": round(time.perf_counter() - begun, 1),
            "default_seconds": round(first.seconds, 1),
            "stopped": first.stopped,
            "loss_d": done.records[-1].loss_d if done.records else None,
            "loss_g": done.records[-1].loss_g if done.records else None,
        }
    )


def _keep_grid(session: Session, found: Found, done: TrainingRun, which: str) -> None:
    grids = sorted(done.folder.samples.glob("step-*.png")) if done.folder.samples.is_dir() else []
    if not grids:
        found.problems.append("there is no grid of samples")
        return
    name = f"faces-{which}.png"
    with Image.open(grids[-1]) as picture:
        picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(
            session.folder / name, optimize=True
        )
    found.records.append({"kind": "grid", "file": name, "step": int(grids[-1].stem.rpartition("-")[2]), "which": which})


def headline_options(session: Session) -> list[str]:
    """The headline's case as options of `train`."""
    cell, device = session.axes.headline, torch.device(session.device)
    options = ["--arch", cell.arch, "--batch-size", str(cell.batch), "--device", device.type, "--track", "none"]
    return [*options, *(["--width", str(cell.width)] if cell.width else [])]
