"""What every sitting would import, and compile or look for, first."""

import jinja2  # noqa: F401
import matplotlib.pyplot
import tensorboard.summary.writer.event_file_writer
import tyro  # noqa: F401

import fastdcgan.cli
import fastdcgan.telemetry.report
import fastdcgan.trainer
from fastdcgan import fused_norm, thin, winograd

for kernels in (fused_norm, thin, winograd):
    kernels.available()
