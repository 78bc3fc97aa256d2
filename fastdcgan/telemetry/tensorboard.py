"""Scalars and sample grids for TensorBoard."""

from dataclasses import asdict
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from fastdcgan.telemetry.metrics import Record

TAGS = {
    "loss_d": "loss/D",
    "loss_g": "loss/G",
    "d_real": "probability/D(x)",
    "d_fake": "probability/D(G(z))",
    "images_per_sec": "speed/images per second",
    "data_wait_fraction": "speed/data wait fraction",
}
"""Fields of a record that are followed, and what a person sees them under."""


class TensorBoard:
    """Event files in the run's folder."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        """Continue a run's events; those past `resume_step` are hidden, for their steps will be taken again."""
        self._writer = SummaryWriter(folder, purge_step=resume_step + 1 if resume_step else 0)

    def write(self, record: Record) -> None:
        """Add a record's figures."""
        values = asdict(record)
        for name, tag in TAGS.items():
            self._writer.add_scalar(tag, values[name], record.step)

    def show(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""
        self._writer.add_image("samples", grid_CHW[:3], step)
        # Its thread would encode and write while the next steps are taken, and hold Python's lock from them.
        self._writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
