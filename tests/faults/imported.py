"""What every sitting would import first."""

import jinja2  # noqa: F401
import matplotlib.pyplot
import tensorboard.summary.writer.event_file_writer
import tyro  # noqa: F401

import fastdcgan.cli
import fastdcgan.telemetry.report
import fastdcgan.trainer  # noqa: F401
