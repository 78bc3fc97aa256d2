"""Scalars and sample grids for TensorBoard."""

import os
import re
import socket
import time
from dataclasses import asdict
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import image, scalar

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
        values = asdict(record)
        for name, tag in TAGS.items():
            self._add(Event(step=record.step, summary=scalar(tag, values[name])))
        self._file.flush()

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""
        for tag, value in quality_figures(evaluation).items():
            self._add(Event(step=evaluation.step, summary=scalar(tag, value)))
        self._file.flush()

    def write_grid(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""
        summary: Summary = image("samples", grid_CHW[:3].nan_to_num(), dataformats="CHW")
        self._add(Event(step=step, summary=summary))
        self._file.flush()

    def close(self) -> None:
        """Close the file; all is written already."""
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
