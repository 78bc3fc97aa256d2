"""What `fastdcgan evaluate` does, and shows."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastdcgan.evaluation.evaluate import Request, evaluate_run
from fastdcgan.evaluation.extractors import Extractor
from fastdcgan.evaluation.records import Evaluation
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.terminal.display import Display

Measured = list[tuple[Path, Evaluation]]


def evaluate(runs: Sequence[Path], request: Request, *, out: Path | None) -> None:
    """Measure runs, and show what was found.

    Args:
        runs: their folders, one at least.
        request: what to measure.
        out: where the figures go as JSON too.

    Raises:
        ValueError: for what the user can fix. What was measured before is in the runs' folders.
    """
    if not runs:
        raise ValueError("evaluate which run? Name its folder: fastdcgan evaluate runs/NAME")
    measured: Measured = []
    with Display() as display:
        for run in runs:
            evaluations, extractor = evaluate_run(run, request, say=display.say, on_stage=display.advance)
            measured += [(run, one) for one in evaluations]
    console = Console(highlight=False, emoji=False)
    console.print(evaluations_table(measured))
    for remark in remarks(measured, extractor):
        console.print(remark, soft_wrap=True, markup=False)
    if out is not None:
        lines = [{"run": str(run), **asdict(one)} for run, one in measured]
        try:
            write_replacing(out, json.dumps({"evaluations": lines}, indent=2) + "\n")
        except OSError as error:
            raise ValueError(f"can't write to {printable(out)}: {error.strerror or error}") from error


def evaluations_table(measured: Measured) -> Table:
    """A row for each run, step and kind of weights, and one for all runs where there are several."""
    first = measured[0][1]
    several = len({run for run, _ in measured}) > 1
    table = Table(
        title=f"In the features of {first.extractor}", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    if several:
        table.add_column("run", overflow="fold")
    table.add_column("step", justify="right")
    table.add_column("weights")
    frechet, kernel = (
        label.partition(", ")[0].replace(" ", "\n") for label in (first.frechet_label, first.kernel_label)
    )
    for heading in (frechet, kernel, "precision", "recall"):
        table.add_column(heading, justify="right", overflow="fold")
    groups: dict[tuple[Path, int, str], list[Evaluation]] = {}
    for run, one in measured:
        groups.setdefault((run, one.step, one.weights), []).append(one)
    for (run, step, weights), found in groups.items():
        table.add_row(
            *[Text(printable(run))] * several,  # its name is no markup
            f"{step:,}",
            weights,
            *_cells(found),
        )
    for weights, found in _by_run(measured).items():
        table.add_row(f"all {len(found)} runs", "", weights, *_cells(found), style="bold")
    return table


def remarks(measured: Measured, extractor: Extractor) -> list[str]:
    """What is needed to read the table, a line each."""
    first = measured[0][1]
    said = [f"{first.pictures:,} pictures on each side. Lower distances are better, higher precision and recall."]
    if first.frechet is None:
        said.append(
            f"No Fréchet distance: it needs more pictures than there are features ({extractor.features:,}); "
            "the kernel distance doesn't."
        )
    several_runs = bool(_by_run(measured))
    if several_runs or any(one.repeat for _, one in measured):
        over = "runs in the last rows, else sets of pictures" if several_runs else "sets of pictures"
        said.append(f"±: standard deviation over {over}.")
    if not several_runs:
        said.append(
            "Trained again from another --seed, a run differs by more than one set of pictures from another: "
            "compare recipes by several runs each (fastdcgan evaluate RUN RUN ...)."
        )
    return said


def _by_run(measured: Measured) -> dict[str, list[Evaluation]]:
    """By weights: the newest step's first set of each run; nothing where they are one, or can't be compared."""
    newest: dict[tuple[str, Path], Evaluation] = {}
    for run, one in measured:
        if one.repeat == 0 and one.step >= newest.get((one.weights, run), one).step:
            newest[one.weights, run] = one
    found: dict[str, list[Evaluation]] = {}
    for (weights, _), one in newest.items():
        found.setdefault(weights, []).append(one)
    return {
        weights: ones for weights, ones in found.items() if len(ones) > 1 and len({one.conditions for one in ones}) == 1
    }


def _cells(found: Sequence[Evaluation]) -> list[str]:
    frechet = [one.frechet for one in found if one.frechet is not None]
    return [
        _mean(frechet, "{:.2f}".format) if len(frechet) == len(found) else "-",
        _mean([one.kernel for one in found], "{:.4f}".format),
        _mean([one.precision for one in found], "{:.3f}".format),
        _mean([one.recall for one in found], "{:.3f}".format),
    ]


def _mean(values: Sequence[float], shown: Callable[[float], str]) -> str:
    mean = shown(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ± {shown(statistics.stdev(values))}"
