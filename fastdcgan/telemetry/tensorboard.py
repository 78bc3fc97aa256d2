"""Scalars and sample grids for TensorBoard."""

import os
import re
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import image

from fastdcgan.evaluation.records import Evaluation
from fastdcgan.telemetry.metrics import Record

TAGS = {
    "loss_d": "loss/D",
    "loss_g": "loss/G",
    "d_real": "probability/D(x)",
    "d_fake": "probability/D(G(z))",
    "images_per_sec": "speed/images per second",
    "data_wait_fraction": "speed/data wait fraction",
}
"""The fields of a record that trackers get, and their names there."""


def quality_figures(evaluation: Evaluation) -> dict[str, float]:
    """The figures of an evaluation that trackers get, by their names there."""
    figures = {
        f"quality/{evaluation.kernel_label.partition(', ')[0]}": evaluation.kernel,
        "quality/precision": evaluation.precision,
        "quality/recall": evaluation.recall,
    }
    if evaluation.frechet is not None:
        figures[f"quality/{evaluation.frechet_label.partition(', ')[0]}"] = evaluation.frechet
    return figures


_EVENT_FILE = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard:
    """Writes an event file, at once and in the calling thread.

    Not torch's SummaryWriter: its thread would hold the GIL while the next steps are taken, and it reports a full disk
    late and with a traceback of its own.
    """

    def __init__(self, folder: Path, resume_step: int) -> None:
        """Continue a run's events; TensorBoard hides those past `resume_step`, whose steps will be repeated."""
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names: ours must be the last even if the clock was set back.
        stamps = [int(found[1]) for path in folder.iterdir() if (found := _EVENT_FILE.match(path.name))]
        stamp = max([int(time.time()), *(before + 1 for before in stamps)])
        file = folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = file.open("xb")
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"))
        # In the first session too: a run killed before its first checkpoint begins again.
        self._add(Event(step=resume_step + 1 if resume_step else 0, session_log=SessionLog(status=SessionLog.START)))
        self._file.flush()

    def write(self, record: Record) -> None:
        """Add a record's figures."""
        self._write_figures(record.step, {tag: getattr(record, name) for name, tag in TAGS.items()})

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""
        self._write_figures(evaluation.step, quality_figures(evaluation))

    def write_grid(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""
        summary: Summary = image("samples", grid_CHW[:3].nan_to_num(), dataformats="CHW")
        self._add(Event(step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        """Close the file; all is written already."""
        self._file.close()

    def _write_figures(self, step: int, figures: Mapping[str, float]) -> None:
        values = (Summary.Value(tag=tag, simple_value=figure) for tag, figure in figures.items())
        self._add(Event(step=step, summary=Summary(value=values)))
        self._file.flush()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
