"""Trackers of a run's figures, sample grids and checkpoints: TensorBoard, Weights & Biases, Trackio.

A failing tracker doesn't end a run: one that can't start, or fails later, is reported in a line and dropped.
"""

import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from fastdcgan.distributed.accelerator import start_tracker
from fastdcgan.evaluation.records import Evaluation
from fastdcgan.runs.checkpoints.folder import Best
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.tensorboard import TAGS, TensorBoard, quality_figures

SERVICES = {"wandb": "Weights & Biases", "trackio": "Trackio"}
"""Trackers that are other packages; extras of the same names install them."""

PROJECT = "fastdcgan"
"""The project that runs belong to, unless WANDB_PROJECT or TRACKIO_PROJECT is set."""

WANDB_SETTINGS = {"console": "off", "silent": True, "init_timeout": 30.0, "finish_timeout": 60.0}
"""No output on the terminal, and timeouts (seconds) for a network that doesn't answer."""

MAX_NAME_IN_ARTIFACT = 80
"""Characters of the folder's name in an artifact's: W&B takes 128."""

TRACKIO_SETTINGS = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
"""No threads that read hardware counters while steps are taken."""


class Tracker(Protocol):
    """What a tracker does."""

    def write(self, record: Record) -> None:
        """Add a record's figures."""

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""

    def write_grid(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""

    def close(self) -> None:
        """Send or write what is still in memory."""


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """The run that trackers get."""

    folder: Path
    run_id: str
    """The same in every session of a run, and in no other run."""

    resume_step: int
    configuration: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.absolute().name

    @property
    def artifact(self) -> str:
        """The name of what its checkpoints are versions of, in the letters that services take."""
        return f"{re.sub('[^A-Za-z0-9._-]+', '-', self.name)[:MAX_NAME_IN_ARTIFACT]}-{self.run_id}"


class Trackers:
    """The trackers that were asked for and have not failed."""

    def __init__(
        self, names: Sequence[str], run: TrackedRun, *, say: Callable[[str], None], warn: Callable[[str], None]
    ) -> None:
        """Start the trackers. `say` gets a line on where each keeps the run, `warn` one on each that fails."""
        self._run, self._say, self._warn = run, say, warn
        self._active: dict[str, Tracker] = {}
        for name in names:
            self._drop_on_error(name, partial(self._start, name, run))

    def write(self, record: Record) -> None:
        """Add a record's figures."""
        for name, tracker in list(self._active.items()):
            self._drop_on_error(name, partial(tracker.write, record))

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation."""
        for name, tracker in list(self._active.items()):
            self._drop_on_error(name, partial(tracker.write_evaluation, evaluation))

    def write_grid(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""
        for name, tracker in list(self._active.items()):
            self._drop_on_error(name, partial(tracker.write_grid, grid_CHW, step))

    def write_checkpoint(self, path: Path, step: int, best: Best | None) -> None:
        """Send a checkpoint to the services. Any thread may call it, and has to wait for the network.

        Args:
            path: of the checkpoint.
            step: its.
            best: which one is the best so far.
        """
        for name, tracker in list(self._active.items()):
            if isinstance(tracker, ServiceTracker):
                self._drop_on_error(name, partial(tracker.write_checkpoint, self._run, path, step, best))

    def close(self) -> None:
        """Send or write what is still in memory."""
        for name, tracker in list(self._active.items()):
            self._drop_on_error(name, tracker.close)

    def _start(self, name: str, run: TrackedRun) -> None:
        if name == "tensorboard":
            self._active[name] = TensorBoard(run.folder / "tensorboard", run.resume_step)
            return
        service = _start_wandb(run, self._say) if name == "wandb" else _start_trackio(run, self._say)
        service.tracker.store_init_configuration(dict(run.configuration))
        self._active[name] = service

    def _drop_on_error(self, name: str, action: Callable[[], object]) -> None:
        """Call `action`; if it raises, warn and drop the tracker."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 (a tracker may raise anything, and the run goes on)
            self._active.pop(name, None)
            self._warn(f"{name} failed and is left out from here on: {_first_line(error)}")


class ServiceTracker:
    """Weights & Biases or Trackio, through Accelerate."""

    def __init__(self, package: str, project: str, /, **settings: Any) -> None:
        self._package: Any = import_module(package)
        self.tracker = start_tracker(package, project, **settings)

    def write(self, record: Record) -> None:
        """Add a record's figures, under the names that they have in TensorBoard."""
        self.tracker.log({tag: getattr(record, name) for name, tag in TAGS.items()}, step=record.step)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Add the figures of an evaluation, under the names that they have in TensorBoard."""
        self.tracker.log(quality_figures(evaluation), step=evaluation.step)

    def write_grid(self, grid_CHW: Tensor, step: int) -> None:
        """Add a sample grid, in [0, 1]."""
        # Not a tracker's log_images: Trackio's has none.
        picture = to_pil_image(grid_CHW[:3].clamp(0, 1))
        self.tracker.log({"samples": self._package.Image(picture)}, step=step)

    def write_checkpoint(self, run: TrackedRun, path: Path, step: int, best: Best | None) -> None:
        """Send a checkpoint as a version of the run's model, known as `step-...`, and as `best` where it is.

        It is a run's folder, with config.json and this checkpoint alone: what takes a run takes it, once downloaded.
        """
        is_best = best is not None and best.step == step
        metadata = {"step": step} | ({"metric": best.metric, "value": best.value} if best and is_best else {})
        artifact = self._package.Artifact(run.artifact, type="model", metadata=metadata)
        artifact.add_dir(str(path), name=f"{path.parent.name}/{path.name}")
        artifact.add_file(str(run.folder / "config.json"), name="config.json")
        aliases = ["latest", path.name, *(["best"] if is_best else [])]
        # Not the package's own function: Trackio's knows the run in the thread that has started it alone.
        self.tracker.tracker.log_artifact(artifact, aliases=aliases)

    def close(self) -> None:
        """Send what is still in memory."""
        with redirect_stdout(io.StringIO()):
            self._package.finish()  # not the tracker's: trackio would finish it once more, and say so, at exit


def check_installed(names: Sequence[str]) -> None:
    """Raise ValueError, naming the extra, if a tracker's package is missing."""
    for name in names:
        try:
            version(name)  # not import_module: the folder `wandb` that it makes can be imported too
        except PackageNotFoundError:
            if name in SERVICES:
                raise ValueError(
                    f"--track {name}: {SERVICES[name]} is not installed: pip install 'fastdcgan[{name}]'"
                ) from None


def _start_wandb(run: TrackedRun, say: Callable[[str], None]) -> ServiceTracker:
    """As its own settings say; kept in the run's folder, to be sent later, where that fails."""
    os.environ.setdefault("WANDB_SILENT", "true")  # it would ask for an account, and wait for the answer

    def start(**mode: str) -> ServiceTracker:
        return ServiceTracker(
            "wandb",
            os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=run.run_id,
            resume="allow",
            dir=str(run.folder),
            settings=WANDB_SETTINGS,
            **mode,
        )

    later = f"what it would have been sent is kept for: wandb sync {run.folder / 'wandb' / 'offline-run-*'}"
    if os.environ.get("WANDB_MODE"):
        service = start()
    else:
        try:
            service = start()
        except Exception as error:  # noqa: BLE001 (no account, no network, or a client of its own that won't run)
            service = start(mode="offline")
            say(f"tracking  wandb offline ({_first_line(error)}); {later}")
            return service
    say(f"tracking  wandb, {service.tracker.tracker.url or later}")
    return service


def _start_trackio(run: TrackedRun, say: Callable[[str], None]) -> ServiceTracker:
    project = os.environ.get("TRACKIO_PROJECT", PROJECT)
    with redirect_stdout(io.StringIO()):  # lines on how to use it
        service = ServiceTracker(
            "trackio", project, name=f"{run.name}-{run.run_id}", resume="allow", **TRACKIO_SETTINGS
        )
    say(f"tracking  trackio; to look at it: trackio show --project {project}")
    return service


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")
