"""A run's figures: buffered on the device, fetched once a tick, written as lines of JSON."""

import json
import math
import sys
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fastdcgan.gan.step import StepMetrics
from fastdcgan.storage import strict_json
from fastdcgan.storage.files import open_to_append, read_limited, write_replacing

MAX_METRICS_BYTES = 2**30
"""Limit of metrics.jsonl: four million lines."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A line of metrics.jsonl. Losses, probabilities and speed are means over the steps since the line before."""

    step: int
    images: int
    """Training pictures seen so far, by all ranks."""

    epoch: float
    seconds: float
    """Wall time of training so far, over all sessions, without sampling and saving."""

    loss_d: float
    loss_g: float
    d_real: float
    """D's mean probability that real pictures are real, before its update."""

    d_fake: float
    """D's mean probability that G's pictures are real, before its update."""

    images_per_sec: float
    data_wait_fraction: float
    """Share of the time spent waiting for pictures."""

    rollbacks: int = 0
    """How often the run has gone back to a checkpoint with new noise so far."""


Curves = Mapping[str, "array[float]"]
"""Figures by name, one of each record: a tenth of the memory of the records, of which a long run has a million."""

PLOTTED = ("step", "loss_d", "loss_g", "d_real", "d_fake")
"""The figures of a record that are kept in memory."""


def curves_of(records: Iterable[Record]) -> Curves:
    """The figures `PLOTTED` of records."""
    curves = {name: array("d") for name in PLOTTED}
    for record in records:
        _extend(curves, record)
    return curves


def _extend(curves: Curves, record: Record) -> None:
    for name, values in curves.items():
        values.append(getattr(record, name))


class MetricsBuffer:
    """Metrics of the steps since the last tick, on the device: adding a step is one small copy without a sync."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        """Hold up to `capacity` steps."""
        self._rows = torch.empty(capacity, len(StepMetrics._fields), device=device)
        self._used = 0

    def add(self, metrics: StepMetrics) -> None:
        """Append a step's metrics."""
        torch.stack(metrics, out=self._rows[self._used])
        self._used += 1

    def take(self) -> Tensor:
        """Empty the buffer; returns its rows, fp32 [steps, 4], on the device."""
        rows = self._rows[: self._used].clone()
        self._used = 0
        return rows


def first_non_finite_step(rows: Tensor, last_step: int) -> tuple[int, str] | None:
    """The first step with a metric that is not finite, and which it was; None if all are finite.

    Args:
        rows: [steps, 4] on the CPU.
        last_step: number of the step in the last row.
    """
    bad = (~torch.isfinite(rows)).nonzero()
    if len(bad) == 0:
        return None
    row, column = bad[0].tolist()
    name = StepMetrics._fields[column]
    return last_step - len(rows) + 1 + row, f"{name} became {rows[row, column].item()}"


class MetricsFile:
    """metrics.jsonl: a record a line, flushed at once."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        """Open for appending, after removing the lines past `resume_step`, whose steps will be repeated."""
        kept = [record for record in read_metrics(path) if record.step <= resume_step] if path.exists() else []
        write_replacing(path, "".join(_line(record) for record in kept))
        self.curves = curves_of(kept)
        """Of all lines in the file."""

        self._file: IO[str] = open_to_append(path)

    def write(self, record: Record) -> None:
        """Append a line."""
        _extend(self.curves, record)
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """The records in a metrics.jsonl. Invalid lines are left out, such as a last one cut short by a crash.

    Raises:
        ValueError: the file is larger than `MAX_METRICS_BYTES`, or can't be read.
    """
    try:
        return read_metrics_and_count_invalid(path)[0]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def read_metrics_and_count_invalid(path: Path) -> tuple[list[Record], int]:
    """As `read_metrics`, and the number of invalid lines. Raises ValueError and OSError as `read_limited` does."""
    records, invalid = [], 0
    for line in read_limited(path, MAX_METRICS_BYTES).split(b"\n"):
        if not line.strip():
            continue
        try:
            record = Record(**strict_json.parse(line))
        except (ValueError, TypeError):
            record = None
        if record is None or not _is_valid(record):
            invalid += 1
        else:
            records.append(record)
    return records, invalid


def _is_valid(record: Record) -> bool:
    """Whether all fields are finite numbers, as in every record that we write."""
    values = vars(record).values()
    # not isinstance: True is an int to it
    return type(record.step) is int and all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in values)


def _line(record: Record) -> str:
    values = vars(record)
    assert all(math.isfinite(value) for value in values.values()), values
    return json.dumps({key: round(v, 6) if isinstance(v, float) else v for key, v in values.items()}) + "\n"
