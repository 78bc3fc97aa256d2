"""Records a window of a run's steps with PyTorch's profiler, and leaves what it found in a folder.

    trace.json.gz                     as PyTorch wrote it: for ui.perfetto.dev or chrome://tracing
    tensorboard/rank0.pt.trace.json.gz    the same for TensorBoard's plugin, whose categories are older
    memory.png                        what was held, over time
    summary.txt, summary.json         the costliest operators, the named ranges, and what binds the step

Ranks other than the first write their own beside these: trace-rank1.json.gz and so on.

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
from fastdcgan.telemetry.profiler.summary import Subject, as_text, summarise, write_summary

LARGEST_TRACE = 20 * 2**20
"""Bytes of the gzipped trace, which is ten to twenty times as large in a browser."""

_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


@dataclass(frozen=True)
class ProfileFolder:
    """Names of what a profiler leaves behind."""

    path: Path
    rank: int = 0

    @property
    def trace(self) -> Path:
        """As PyTorch wrote it."""
        return self._own("trace", ".json.gz")

    @property
    def tensorboard(self) -> Path:
        """For the plugin, which looks for this ending in every folder below --logdir, and takes the rest for a name."""
        return self.path / "tensorboard" / f"rank{self.rank}.pt.trace.json.gz"

    @property
    def memory(self) -> Path:
        """A plot."""
        return self._own("memory", ".png")

    @property
    def text(self) -> Path:
        """The tables."""
        return self._own("summary", ".txt")

    @property
    def json(self) -> Path:
        """The same as data."""
        return self._own("summary", ".json")

    def create(self) -> None:
        """Make the folder; what an earlier profile left of these names goes. Raises ValueError if it can't be."""
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
    """Watches the steps of a run: `step()` after each. What was recorded is written when the window ends.

    Args:
        folder: to write to.
        request: how long to wait, warm up and record, in steps.
        subject: what is profiled.
        say: told, in one line, what could not be written. Training goes on without.

    Raises:
        ValueError: if the folder can't be written.
    """

    def __init__(self, folder: ProfileFolder, request: RunConfig, subject: Subject, say: Callable[[str], None]) -> None:
        self.report = ""
        """The tables, once there are any."""

        self._folder, self._subject, self._say = folder, subject, say
        folder.create()
        # Kineto tells stderr when it begins and ends, and that there is no GPU.
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
            on_trace_ready=self._keep,
            record_shapes=True,
            profile_memory=True,
            acc_events=True,  # there is one window: nothing is added up over several
        )
        self._step, self._first = 0, request.profile_wait + request.profile_warmup
        self._said = False
        self._profile.start()

    @property
    def recording(self) -> bool:
        """Whether the next step is recorded."""
        return self._schedule(self._step) in _RECORDING

    @property
    def turns(self) -> bool:
        """Whether recording begins or ends with the next `step()`."""
        return self.recording != (self._schedule(self._step + 1) in _RECORDING)

    def step(self) -> None:
        """A step is over."""
        self._step += 1
        self._profile.step()

    def close(self) -> None:
        """The run is over. A window that it cut short is written as far as it goes."""
        self._profile.stop()
        if not self.report and not self._said:
            self._say("profile   no step was recorded: the run ended first")

    def _keep(self, profiled: profile) -> None:
        try:
            self._write(profiled)
        except OSError as error:
            self._said = True
            self._say(f"profile   can't be written to {self._folder.path}: {error.strerror or error}")

    def _write(self, profiled: profile) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder.path) as scratch:
            raw = Path(scratch) / "trace.json"
            profiled.export_chrome_trace(str(raw))
            content = raw.read_bytes()
        recorded = trace.parse(content.decode(errors="replace"))
        try:
            window = trace.read(recorded, whole_steps=self._step - self._first)
        except ValueError:
            return  # cut short within its first step
        packed = gzip.compress(content, compresslevel=6)
        if fits := len(packed) <= LARGEST_TRACE:
            write_replacing(self._folder.trace, packed)
            for_plugin = trace.write(trace.for_tensorboard(recorded)).encode()
            write_replacing(self._folder.tensorboard, gzip.compress(for_plugin, compresslevel=6))
        else:
            self._say(
                f"profile   the trace of {window.steps} steps takes {len(packed) / 2**20:,.0f} MiB, more than "
                f"{LARGEST_TRACE / 2**20:g}, and is not written: ask for fewer with --profile-active"
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
