"""The numbers of a run: gathered on the device, fetched once a tick, kept as lines of JSON."""

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from fastdcgan.gan.step import StepMetrics
from fastdcgan.storage import strict_json
from fastdcgan.storage.files import open_to_append, read_limited, write_replacing

MAX_METRICS = 2**30
"""Bytes of a metrics.jsonl: four million lines."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of metrics.jsonl: means over the steps since the line before."""

    step: int
    images: int
    """Training pictures seen so far, over all ranks."""

    epoch: float
    seconds: float
    """Wall time spent in training so far, over all sittings, without sampling and saving."""

    loss_d: float
    loss_g: float
    d_real: float
    """D's mean probability that real pictures are real, before its update."""

    d_fake: float
    """D's mean probability that G's pictures are real, before its update."""

    images_per_sec: float
    data_wait_fraction: float
    """Share of the time in which the step stood waiting for pictures."""

    rollbacks: int = 0
    """How often the run has gone back to a checkpoint with new noise so far."""


class StepLog:
    """Metrics of the steps since the last tick, one row a step, on the device: a step costs one small copy, no sync."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._rows = torch.empty(capacity, len(StepMetrics._fields), device=device)
        self._used = 0

    def add(self, metrics: StepMetrics) -> None:
        """Remember a step's figures."""
        torch.stack(metrics, out=self._rows[self._used])
        self._used += 1

    def take(self) -> Tensor:
        """The rows [steps, 4] since the last call, still on the device; the log is empty afterwards."""
        rows = self._rows[: self._used].clone()
        self._used = 0
        return rows


def first_bad_step(rows: Tensor, last_step: int) -> tuple[int, str] | None:
    """The first step whose figures are not all finite, and which figure it was; None if all are well.

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
    """metrics.jsonl: one record a line, flushed as written."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        """Open for appending, without the lines past `resume_step`: those steps will be taken again."""
        kept = [record for record in read_metrics(path) if record.step <= resume_step] if path.exists() else []
        write_replacing(path, "".join(_line(record) for record in kept))
        self.records = kept
        self._file: IO[str] = open_to_append(path)

    def write(self, record: Record) -> None:
        """Append a line."""
        self.records.append(record)
        self._file.write(_line(record))
        self._file.flush()

    def close(self) -> None:
        """Done."""
        self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """All whole lines of a metrics.jsonl; a last line cut short by a crash is left out, and whatever is no record.

    Raises:
        ValueError: the file is larger than any run's, or can't be read.
    """
    try:
        return read_metrics_counting(path)[0]
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error


def read_metrics_counting(path: Path) -> tuple[list[Record], int]:
    """See `read_metrics`; and how many lines were left out. Raises ValueError and OSError as `read_limited` does."""
    records, left_out = [], 0
    for line in read_limited(path, MAX_METRICS).split(b"\n"):
        if not line.strip():
            continue
        try:
            record = Record(**strict_json.parse(line))
        except (ValueError, TypeError):
            record = None
        if record is None or not _is_sound(record):
            left_out += 1
        else:
            records.append(record)
    return records, left_out


def _is_sound(record: Record) -> bool:
    """Whether it holds finite numbers, as every record that was written does."""
    values = asdict(record).values()
    # not isinstance: True is an int to it
    return type(record.step) is int and all(type(v) in (int, float) and abs(v) <= sys.float_info.max for v in values)


def _line(record: Record) -> str:
    values = asdict(record)
    assert all(math.isfinite(value) for value in values.values()), values
    return json.dumps({key: round(v, 6) if isinstance(v, float) else v for key, v in values.items()}) + "\n"
