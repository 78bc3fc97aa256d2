"""Is the scaling model true here? `python -m benchmarks.scaling [--arch dcgan64] [--batch-size 128] [--out DIR]`.

On this machine it measures what one rank of one thread takes by itself, and what gloo's all-reduce takes over 2 and 4
ranks; `fastdcgan/limits/scaling.py`, fed with these, predicts the iteration of 1, 2 and 4 ranks that train together.
These are then timed. All take turns, each with processes of its own, and a prediction is held to what was measured in
its round.

A run is added to `scaling.json` in the folder, and `scaling.md` is made anew of all runs there.
"""

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.conditions import conditions, cores
from benchmarks.processes import Worker, worker
from benchmarks.ranks import command
from benchmarks.report import conditions_text, spread, table
from benchmarks.results import quartiles
from fastdcgan.config import ExecutionConfig
from fastdcgan.execution.plan import Plan, choose_plan
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.limits.allreduce import Fabric, fit_fabric, fit_line
from fastdcgan.limits.scaling import Communication, measured_compute, predict_iteration

WORLDS = (1, 2, 4)

SIZES = {64: 10, 2**14: 10, 2**18: 4, 2**20: 3, 3 * 2**20: 2}
"""Numbers of an all-reduce, and how many are timed together: from BatchNorm's to a network's gradients."""

TURN_SECONDS = 0.4

ALLOWED = 0.2
"""A prediction may be so far off."""


@dataclass
class Readings:
    """What was measured, in seconds; those at the same place were taken in the same round."""

    batch: int
    """Of all ranks together."""

    solo: dict[int, list[float]] = field(default_factory=dict)
    """A step of one rank by itself, by its batch."""

    beside: list[float] = field(default_factory=list)
    """A step of ranks that fill the cores, none sharing anything with the others."""

    together: dict[int, list[float]] = field(default_factory=dict)
    """A step of ranks that train together, by their number."""

    two_threads: list[float] = field(default_factory=list)
    """A step of one rank with as many threads as there are cores."""

    all_reduce: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    """By ranks, and by bytes."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A prediction and what was measured."""

    ranks: int
    predicted_seconds: float
    measured_seconds: float
    ratio: float
    """Predicted by measured: the median over rounds."""

    ratio_quartiles: tuple[float, float]
    ratio_by_cores_alone: float
    """The same, if ranks on cores of their own did not slow each other down."""

    communication: float
    """Predicted share of the all-reduce."""


def main(arch: str = "dcgan64", batch_size: int = 128, seconds: float = 40.0, out: Path = Path()) -> None:
    """Measure and predict, and keep both.

    Args:
        arch: dcgan28, or dcganR for a power of two R from 16 to 512.
        batch_size: of all ranks together; a multiple of 4.
        seconds: how long to take turns. Starting the processes comes on top.
        out: the folder of scaling.json and scaling.md; made if need be.
    """
    if batch_size < 1 or batch_size % max(WORLDS):
        raise ValueError(f"--batch-size {batch_size}: must be a multiple of {max(WORLDS)}")
    geometry = architecture(arch)
    plan = replace(choose_plan(ExecutionConfig(), torch.device("cpu"), max(WORLDS)), replay=False)
    readings = measure(arch, batch_size, plan, seconds)
    run = {
        "arch": arch,
        "batch": batch_size,
        "plan": str(plan),
        **findings(readings, geometry, cores()),
        "conditions": conditions(),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        kept = out / "scaling.json"
        runs = [*(json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else []), json.loads(json.dumps(run))]
        kept.write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
        (out / "scaling.md").write_text(report(runs), encoding="utf-8")
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error
    print(report(runs[-1:]))


def findings(readings: Readings, arch: Architecture, filling: int) -> dict[str, Any]:
    """All that is said of a run but its conditions."""
    return {
        "rounds": len(readings.two_threads),
        "held": [asdict(held) for held in hold(readings, arch, filling)],
        "links": {ranks: asdict(fabric(readings, ranks).intra_node) for ranks in readings.all_reduce},
        "beside": slowdown(readings),
        "two_ranks_against_two_threads": ratios(readings.two_threads, readings.together[2]),
        "readings": asdict(readings),
    }


def measure(arch: str, batch: int, plan: Plan, seconds: float) -> Readings:
    """Begin all the groups, then let them take turns for so long.

    The plan must not be replayed: the ranks' gradients are to pass through DDP and gloo, as the model has it.
    """
    readings = Readings(batch)
    shares = {ranks: batch // ranks for ranks in WORLDS}
    filling = cores()
    with ExitStack() as groups:

        def group(ranks: int, threads: int) -> Worker:
            each = command(ranks, arch, batch // ranks, replace(plan, threads=threads))
            return groups.enter_context(worker(each))

        together = {ranks: group(ranks, 1) for ranks in WORLDS}
        solo, beside, threaded = together[1], together[2], group(1, filling)

        def turn(who: Worker, what: str, share: int) -> Callable[[], float]:
            """A turn is as many steps as the first one here shows to be enough."""
            who.ask(f"batch {share}")
            once: float = who.ask(f"{what} 1")["seconds"]
            steps = max(1, math.ceil(TURN_SECONDS / once))

            def take() -> float:
                who.ask(f"batch {share}")
                taken: float = who.ask(f"{what} {steps}")["seconds"]
                return taken / steps

            return take

        solos = {share: turn(solo, "step", share) for share in shares.values()}
        all_beside = turn(beside, "alone", shares[2])
        trained = {ranks: turn(together[ranks], "step", share) for ranks, share in shares.items() if ranks > 1}
        two_threads = turn(threaded, "step", batch)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for share, take in solos.items():
                readings.solo.setdefault(share, []).append(take())
            readings.beside.append(all_beside())
            # The rank by itself once more: its prediction comes from the line through all of them.
            readings.together.setdefault(1, []).append(solos[batch]())
            for ranks, take in trained.items():
                readings.together.setdefault(ranks, []).append(take())
            readings.two_threads.append(two_threads())
            for ranks in trained:
                for numbers, times in SIZES.items():
                    taken = together[ranks].ask(f"allreduce {numbers} {times}")["seconds"]
                    readings.all_reduce.setdefault(ranks, {}).setdefault(4 * numbers, []).append(taken / times)
    return readings


def fabric(readings: Readings, ranks: int) -> Fabric:
    """The link that explains the all-reduces, from their medians."""
    times = readings.all_reduce[ranks]
    return fit_fabric([(size, statistics.median(seconds)) for size, seconds in times.items()], ranks)


def slowdown(readings: Readings) -> float:
    """Of a rank, by others on the other cores: they share caches, memory and the processor's clock."""
    return statistics.median(
        beside / solo for beside, solo in zip(readings.beside, readings.solo[readings.batch // 2], strict=True)
    )


def hold(readings: Readings, arch: Architecture, filling: int) -> list[Held]:
    """Predict each round's iteration of 1, 2 and 4 ranks, and compare.

    Args:
        readings: what was measured.
        arch: the networks.
        filling: cores of the machine. More ranks than these take turns on them.
    """
    beside = slowdown(readings)
    return [_held(readings, arch, ranks, filling, beside) for ranks in readings.together]


def _held(readings: Readings, arch: Architecture, ranks: int, filling: int, beside: float) -> Held:
    batch = readings.batch // ranks
    links = (fabric(readings, ranks),) if ranks > 1 else ()
    sharing = Communication(fabrics=links, overlapped=False)  # the cores that compute carry the messages too
    crowded = max(1.0, ranks / filling)
    predictions: list[float] = []
    by_cores_alone: list[float] = []
    communication: list[float] = []
    for number in range(len(readings.together[ranks])):
        start, each = fit_line([(share, times[number]) for share, times in readings.solo.items()])
        compute = measured_compute(arch, start + each * batch)
        for slower, found in ((beside if ranks > 1 else 1.0, predictions), (1.0, by_cores_alone)):
            scaled = predict_iteration(compute, batch, ranks, sharing, slowdown=crowded * slower)
            found.append(scaled.seconds)
        communication.append(predict_iteration(compute, batch, ranks, sharing, slowdown=crowded * beside).communication)
    taken = readings.together[ranks]
    off = [predicted / seconds for predicted, seconds in zip(predictions, taken, strict=True)]
    return Held(
        ranks=ranks,
        predicted_seconds=statistics.median(predictions),
        measured_seconds=statistics.median(taken),
        ratio=statistics.median(off),
        ratio_quartiles=quartiles(off),
        ratio_by_cores_alone=statistics.median(
            predicted / seconds for predicted, seconds in zip(by_cores_alone, taken, strict=True)
        ),
        communication=statistics.median(communication),
    )


def ratios(reference: Sequence[float], ours: Sequence[float]) -> dict[str, Any]:
    """How many times the images per second: the median over rounds, with its quartiles."""
    each = [other / own for other, own in zip(reference, ours, strict=True)]
    return {"median": statistics.median(each), "quartiles": quartiles(each)}


# --- The report -------------------------------------------------------------------------------------------------------


def report(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown: all runs, under the conditions of the first."""
    rows = [(number, run, held) for number, run in enumerate(runs, 1) for held in run["held"]]
    columns: dict[str, Callable[[tuple[int, dict[str, Any], dict[str, Any]]], str]] = {
        "run": lambda row: str(row[0]),
        "": lambda row: f"{row[1]['arch']}, batch {row[1]['batch']}",
        "ranks": lambda row: str(row[2]["ranks"]),
        "rounds": lambda row: str(row[1]["rounds"]),
        "predicted, ms": lambda row: f"{1e3 * row[2]['predicted_seconds']:.1f}",
        "of it all-reduce": lambda row: f"{row[2]['communication']:.0%}",
        "measured, ms": lambda row: f"{1e3 * row[2]['measured_seconds']:.1f}",
        "predicted / measured": lambda row: spread(row[2]["ratio"], row[2]["ratio_quartiles"]),
        "by cores alone": lambda row: f"{row[2]['ratio_by_cores_alone']:.2f}",
        "within 20 %": lambda row: "yes" if abs(row[2]["ratio"] - 1) <= ALLOWED else "no",
    }
    facts: dict[str, Callable[[tuple[int, dict[str, Any]]], str]] = {
        "run": lambda row: str(row[0]),
        "": lambda row: f"{row[1]['arch']}, batch {row[1]['batch']}",
        "gloo, 2 ranks": lambda row: _link(row[1]["links"]["2"]),
        "gloo, 4 ranks": lambda row: _link(row[1]["links"]["4"]),
        "a rank beside another": lambda row: f"{row[1]['beside']:.2f}",
        "images/s, 2 ranks of 1 thread / 1 rank of 2": lambda row: spread(
            row[1]["two_ranks_against_two_threads"]["median"], row[1]["two_ranks_against_two_threads"]["quartiles"]
        ),
        "plan": lambda row: row[1]["plan"],
    }
    return (
        "\n\n".join(
            (
                "# The scaling model, held to this machine",
                conditions_text(runs),
                "## Predicted and measured",
                table(columns, rows),
                "Medians of paired ratios, quartiles in brackets. Fed to the model: a line through the steps of one "
                "rank of one thread by itself, at three batches; gloo's all-reduce over as many ranks; how much slower "
                "a step of half the batch is while another rank takes one that shares nothing; and that more ranks "
                "than cores take turns. By cores alone: without the slowdown.",
                "## What was fed to it, and the target",
                table(facts, list(enumerate(runs, 1))),
            )
        )
        + "\n"
    )


def _link(link: dict[str, Any]) -> str:
    return f"{1e3 * link['latency']:.2f} ms, {link['bytes_per_sec'] / 1e9:.2f} GB/s"


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m benchmarks.scaling")
    except ValueError as problem:
        print(f"benchmarks.scaling: error: {problem}", file=sys.stderr)
        sys.exit(2)
