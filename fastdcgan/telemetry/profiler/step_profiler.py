"""Profiles a window of a run's steps with PyTorch's profiler, and writes to a folder

    trace.json.gz                     as PyTorch wrote it: for ui.perfetto.dev or chrome://tracing
    tensorboard/rank0.pt.trace.json.gz    the same for TensorBoard's plugin, whose categories are older
    memory.png                        allocated memory over time
    summary.txt, summary.json         the costliest operators, the named ranges, and what binds the step

Ranks other than 0 write their own beside these: trace-rank1.json.gz and so on.

PyTorch's profiler is used directly. Accelerate's ProfileKwargs builds the same object, and would write the trace under
a name of its own before it could be weighed.
"""

import gzip
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.profiler import ProfilerAction, ProfilerActivity, profile, schedule

from fastdcgan.config import RunConfig
from fastdcgan.limits.roofline import device_ceilings
from fastdcgan.storage.files import write_replacing
from fastdcgan.telemetry.profiler import trace
from fastdcgan.telemetry.profiler.memory_timeline import plot_memory
from fastdcgan.telemetry.profiler.summary import ProfiledRun, as_text, summarise, write_summary

MAX_TRACE_BYTES = 20 * 2**20
"""Limit of the gzipped trace, which is ten to twenty times as large once a browser has unpacked it."""

_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


@dataclass(frozen=True)
class ProfileFolder:
    """The paths in the profile's folder."""

    path: Path
    rank: int = 0

    @property
    def trace(self) -> Path:
        """The trace as PyTorch wrote it."""
        return self._own("trace", ".json.gz")

    @property
    def tensorboard(self) -> Path:
        """The trace for the plugin, which looks for this suffix in every folder below --logdir."""
        return self.path / "tensorboard" / f"rank{self.rank}.pt.trace.json.gz"

    @property
    def memory(self) -> Path:
        """The plot of memory."""
        return self._own("memory", ".png")

    @property
    def text(self) -> Path:
        """The summary as text."""
        return self._own("summary", ".txt")

    @property
    def json(self) -> Path:
        """The summary as JSON."""
        return self._own("summary", ".json")

    def create(self) -> None:
        """Make the folder and remove an earlier profile's files. Raises ValueError if it can't be written."""
        try:
            self.tensorboard.parent.mkdir(parents=True, exist_ok=True)
            for left in (self.trace, self.tensorboard, self.memory, self.text, self.json):
                left.unlink(missing_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise ValueError(f"can't write to the profile's folder {self.path}: {error.strerror or error}") from error

    def _own(self, name: str, ending: str) -> Path:
        return self.path / f"{name}{f'-rank{self.rank}' if self.rank else ''}{ending}"


def check_window(request: RunConfig, steps_left: int) -> None:
    """Raises ValueError if a run ends before its profiler does."""
    steps = request.profile_wait + request.profile_warmup + request.profile_active
    if steps > steps_left:
        raise ValueError(
            f"--profile-wait {request.profile_wait} --profile-warmup {request.profile_warmup} --profile-active "
            f"{request.profile_active} need {steps:,} steps, and the run has {steps_left:,} left: "
            "ask for fewer, or for more --images"
        )


class StepProfiler:
    """Profiles a window of steps; call `step()` after each. The files are written when the window ends.

    Args:
        folder: to write to.
        request: how long to wait, warm up and record, in steps.
        subject: what is profiled.
        say: told, in a line, what could not be written. Training goes on.

    Raises:
        ValueError: if the folder can't be written.
    """

    def __init__(
        self, folder: ProfileFolder, request: RunConfig, subject: ProfiledRun, say: Callable[[str], None]
    ) -> None:
        self.report = ""
        """The summary as text, once the window has ended."""

        self._folder, self._subject, self._say = folder, subject, say
        folder.create()
        # Else Kineto logs to stderr that it begins and ends, and that there is no GPU.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [ProfilerActivity.CPU]
        if subject.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._schedule = schedule(
            wait=request.profile_wait, warmup=request.profile_warmup, active=request.profile_active, repeat=1
        )
        self._profile = profile(
            activities=activities,
            schedule=self._schedule,
            on_trace_ready=self._on_trace_ready,
            record_shapes=True,
            profile_memory=True,
            acc_events=True,  # there is one window: nothing is added up over several
        )
        self._step, self._first = 0, request.profile_wait + request.profile_warmup
        self._failed = False
        self._profile.start()

    @property
    def recording(self) -> bool:
        """Whether the next step is profiled."""
        return self._schedule(self._step) in _RECORDING

    @property
    def recording_changes(self) -> bool:
        """Whether `recording` changes with the next `step()`."""
        return self.recording != (self._schedule(self._step + 1) in _RECORDING)

    def step(self) -> None:
        """Call this after each step."""
        self._step += 1
        self._profile.step()

    def close(self) -> None:
        """Stop profiling. A window that is cut short is written with its complete steps."""
        self._profile.stop()
        if not self.report and not self._failed:
            self._say("profile   no step was recorded: the run ended first")

    def _on_trace_ready(self, profiled: profile) -> None:
        try:
            self._write(profiled)
        except OSError as error:
            self._failed = True
            self._say(f"profile   can't be written to {self._folder.path}: {error.strerror or error}")

    def _write(self, profiled: profile) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder.path) as scratch:
            raw = Path(scratch) / "trace.json"
            profiled.export_chrome_trace(str(raw))
            content = raw.read_bytes()
        recorded = trace.parse(content.decode(errors="replace"))
        try:
            window = trace.read(recorded, complete_steps=self._step - self._first)
        except ValueError:
            return  # no complete step
        packed = gzip.compress(content, compresslevel=6)
        if fits := len(packed) <= MAX_TRACE_BYTES:
            write_replacing(self._folder.trace, packed)
            for_plugin = trace.write(trace.for_tensorboard(recorded)).encode()
            write_replacing(self._folder.tensorboard, gzip.compress(for_plugin, compresslevel=6))
        else:
            self._say(
                f"profile   the trace of {window.steps} steps takes {len(packed) / 2**20:,.0f} MiB, more than "
                f"{MAX_TRACE_BYTES / 2**20:g}, and is not written: ask for fewer with --profile-active"
            )
        summary = summarise(window, self._subject, device_ceilings(self._subject.device, seconds=0.1))
        plot_memory(window, self._folder.memory)
        names = (
            self._folder.memory,
            self._folder.json,
            *((self._folder.trace, self._folder.tensorboard) if fits else ()),
        )
        write_summary(summary, self._folder.json, [str(file.relative_to(self._folder.path)) for file in names])
        self.report = as_text(summary)
        write_replacing(self._folder.text, self.report)
