"""What every sitting would import, and compile or look for, first."""

import jinja2  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import tensorboard.summary.writer.event_file_writer  # noqa: F401
import tyro  # noqa: F401

import fastdcgan.cli
import fastdcgan.telemetry.report.end_of_run
import fastdcgan.training.trainer  # noqa: F401
from fastdcgan.kernels import fused_batch_norm, thin, winograd

for kernels in (fused_batch_norm, thin, winograd):
    kernels.available()
