"""`train` for programs and notebooks, which go on afterwards: nothing of theirs is changed."""

import difflib
import inspect
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from fastdcgan.api.notebook import NotebookView, notebook_display
from fastdcgan.api.run import Run
from fastdcgan.config import GROUPS, TrainConfig, flat, from_flat, set_by_default
from fastdcgan.distributed.accelerator import apart_from_the_program
from fastdcgan.runs.folder import RunFolder, begun_config
from fastdcgan.storage.signals import Stopped, StopRequests, stop_requests
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training import trainer
from fastdcgan.training.caller import Caller


@dataclass(frozen=True)
class Tick:
    """What `on_tick` is called with, every `log_every` steps."""

    run: Run
    """The run so far: its grids, checkpoints and metrics are on disk."""

    record: Record
    """Losses, probabilities and speed since the tick before, and how far the run has come."""

    total: int
    """Steps of the whole run; `record.step` of them are done."""


class StopTraining(Exception):  # noqa: N818 (not an error, as StopIteration is none)
    """Raise it in `on_tick`: a checkpoint is written, and `train` returns. The same call goes on from there."""


OnTick = Callable[[Tick], object]

_training = threading.Lock()


def train(config: TrainConfig | None = None, /, *, on_tick: OnTick | None = None, **options: Any) -> Run:
    """Train a DCGAN, as `fastdcgan train` does with options of the same names.

    The same call again goes on from the last checkpoint. Ctrl-C, a notebook's stop button and SIGTERM wait until a
    checkpoint is written, and then do what they do without `train`: raise `KeyboardInterrupt`, end the process. Ctrl-C
    once more doesn't wait. In another thread than the main one Python passes on no signals: there `on_tick` stops it.

    >>> run = train(data="photos", arch="dcgan16", width=4, batch_size=8, epochs=1, out="runs/first", quiet=True)
    >>> run
    Run('runs/first')

    Args:
        config: the request as an object, instead of or below the options.
        on_tick: called in this thread every `log_every` steps. What it raises ends the run, once a checkpoint is
            written, and is raised here; `StopTraining` is not.
        options: as `fastdcgan train --help` says, with underscores: `batch_size=64`. `quiet=True` shows nothing at all.

    Returns:
        the run, also where it was stopped by `StopTraining`.

    Raises:
        ValueError: for what the caller can fix, in one line; or when a loss stops being a finite number.
        TypeError: there is no such option.
    """
    request = _request(config or TrainConfig(), options)
    program, stopped = _Program(on_tick), None
    if not _training.acquire(blocking=False):
        raise ValueError("another train() goes on in this process: wait for its end, or train in a process each")
    try:
        with apart_from_the_program():
            trainer.train(request, program)
    except Stopped as stop:
        stopped = stop
    finally:
        _training.release()
    if program.raised is not None and not isinstance(program.raised, StopTraining):
        raise program.raised
    if stopped is not None and program.raised is None:
        message, number = stopped.args
        if not request.run.quiet:
            print(message)
        signal.raise_signal(number)  # late: it was held back until all was saved
        if program.run is None:  # the program's own handler has let it pass
            raise KeyboardInterrupt(message)
    assert program.run is not None
    return program.run


def _request(config: TrainConfig, options: dict[str, Any]) -> TrainConfig:
    """The request with other options. Raises TypeError for an unknown one, ValueError for a value of a wrong kind."""
    known = flat(config)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f": did you mean {near[0]}?" if near else ", as fastdcgan train --help lists them"
            raise TypeError(f"train() has no option {name!r}{hint}")
    given = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in options.items()}
    request = from_flat({**known, **given})
    usual = flat(TrainConfig())
    named = {name: value for name, value in known.items() if value != usual[name]} | given
    return from_flat({**usual, **set_by_default(request, begun_config(request)), **named})


class _Program(Caller):
    """A program that trains: it is not ended where it doesn't answer, and is told of each tick."""

    def __init__(self, on_tick: OnTick | None) -> None:
        self._on_tick = on_tick
        self.run: Run | None = None
        """Known once its folder is chosen."""

        self.raised: Exception | None = None

    @contextmanager
    def stop_requests(self) -> Iterator[StopRequests]:
        with stop_requests(may_end_process=False) as self._stop:
            yield self._stop

    def display(self, folder: RunFolder, *, first: bool, quiet: bool, log: RunLog | None) -> Display:
        self.run = Run(folder.path)
        visible, notebook = first and not quiet, notebook_display()
        view = NotebookView(notebook) if visible and notebook is not None else None
        return Display(visible=visible, quiet=quiet, log=log, view=view)

    def tick(self, record: Record, total: int) -> None:
        if self._on_tick is None or self.raised is not None:
            return
        assert self.run is not None
        try:
            self._on_tick(Tick(self.run, record, total))
        except Exception as error:  # noqa: BLE001 (the caller's own: kept until a checkpoint is written)
            self.raised = error
            self._stop.request(signal.SIGINT)


def _signature() -> inspect.Signature:
    """With the options in it, for `help` and for completion in notebooks."""
    usual = flat(TrainConfig())
    hints = {name: hint for group in GROUPS.values() for name, hint in get_type_hints(group).items()}
    names = [field.name for group in GROUPS.values() for field in fields(group)]
    own = inspect.signature(train)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=usual[name], annotation=hints[name])
        for name in names
    ]
    return own.replace(parameters=[*list(own.parameters.values())[:-1], *options])


train.__signature__ = _signature()  # type: ignore[attr-defined]
