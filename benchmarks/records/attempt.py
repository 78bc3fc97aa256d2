"""How a record is tried: over training seeds, in turns with the reference; what is in the log is not done again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.conditions import conditions, device
from benchmarks.experiments.trials import (
    Judge,
    Point,
    Trial,
    append_line,
    as_table,
    points_of,
    points_of_reference,
    read_lines,
    trial_in,
)
from benchmarks.records.track import Record, Track, open_track, trial_of
from benchmarks.records.verdict import Pair
from fastdcgan.config import ExecutionConfig
from fastdcgan.evaluation.distances import check_installed
from fastdcgan.execution.plan import choose_plan
from fastdcgan.limits.cores import usable_cores


def attempt(
    track: Track, record: Record, out: Path, seeds: int, *, data: str | None = None, weights: Path | None = None
) -> list[Pair]:
    """Train what the log lacks, the reference and the record in turns, and add a line of JSON for each training.

    A seed of which this machine, at this commit, has only one of the two is begun anew with both.

    Args:
        track: what is frozen.
        record: what is claimed.
        out: the log.
        seeds: of training, counted from 0.
        data: where the track's pictures are. Default: where `fastdcgan train` finds them.
        weights: Inception's, as of `open_track`.

    Returns:
        what was found, by seed; of earlier calls too.

    Raises:
        ValueError: something that the track needs is missing.
    """
    check_installed()
    where = device()
    source, judge = open_track(track, data or track.data, weights, where)
    plan = record.plan or choose_plan(ExecutionConfig(), where)
    here = group_of(_conditions(judge))
    done = pairs_by_seed(read_lines(out), here, track, record)
    for seed in range(seeds):
        if seed not in done:
            torch.set_num_threads(usable_cores())  # a plan may have set others
            theirs, ours = (trial_of(track, one, seed) for one in (track.reference, record))
            reference = _last(points_of_reference(theirs, source, judge, where))
            _note(out, "reference", theirs, "reference", reference, judge)
            found = _last(points_of(ours, source, judge, plan, where))
            _note(out, "record", ours, str(plan), found, judge)
            done[seed] = reference, found
    return [done[seed] for seed in range(seeds)]


def _last(points: Iterator[Point]) -> Point:
    (*_, last) = points
    return last


def _note(out: Path, kind: str, trial: Trial, plan: str, point: Point, judge: Judge) -> None:
    line = {"kind": kind, "trial": as_table(trial), "plan": plan, "point": asdict(point)}
    append_line(out, line | _conditions(judge))


def _conditions(judge: Judge) -> dict[str, Any]:
    return {
        "extractor": judge.extractor.identity,
        "real": judge.real.identity,
        "conditions": conditions(),
    }


def group_of(line: Mapping[str, Any]) -> tuple[object, ...]:
    """What lines of a log have to share to be compared: machine, commit, extractor and pictures."""
    where = line["conditions"]
    commit = where["commit"].removesuffix("-dirty")  # as a log that git knows makes it, when a line is added
    return (*(where[name] for name in ("cpu", "gpu", "cores")), commit, line["extractor"], line["real"])


def pairs_by_seed(
    lines: Sequence[Mapping[str, Any]], group: tuple[object, ...], track: Track, record: Record
) -> dict[int, Pair]:
    """The newest pair of each seed in a group: of the reference, and the record that was trained right after it."""
    expected = {kind: trial_of(track, one, 0) for kind, one in (("reference", track.reference), ("record", record))}
    found: dict[int, Pair] = {}
    before: tuple[int, Point] | None = None
    for line in lines:
        kind, seed, point = line["kind"], line["trial"]["seed"], Point(**line["point"])
        known = group_of(line) == group and trial_in(line["trial"]) == replace(expected[kind], seed=seed)
        if known and kind == "record" and before is not None and before[0] == seed:
            found[seed] = before[1], point
        before = (seed, point) if known and kind == "reference" else None
    return found
