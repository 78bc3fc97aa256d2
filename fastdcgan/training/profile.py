"""A few steps under the profiler, of a run that is there or of one as it would be, without taking a step in it.

The steps are those of a real run, in a folder beside the profile's that is removed afterwards: what is recorded has
the run's own weights, plan and data, and its checkpoints and metrics stay as they are.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path

from fastdcgan.config import TrainConfig, differing_fields, flat, from_flat
from fastdcgan.distributed.accelerator import Accelerator, join
from fastdcgan.distributed.roll_call import lost_ranks_as_one_line
from fastdcgan.runs.checkpoints.folder import list_checkpoints
from fastdcgan.runs.folder import RunFolder, check_writable, read_config
from fastdcgan.storage.signals import Stopped, stop_requests
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training.announce import announce_plan
from fastdcgan.training.setup import setup
from fastdcgan.training.starting.begin import with_ancestors_choices
from fastdcgan.training.trainer import fit
from fastdcgan.training.validate import validate

_NEVER = 2**62
"""Steps between samples and checkpoints: the window is for steps."""


def profile(run: Path | None, request: TrainConfig) -> None:
    """What `fastdcgan profile` does: profile a run, or one as it would be, and say where that is.

    Raises:
        ValueError: for what the user can fix.
    """
    written = profile_run(run, request) if run is not None else profile_request(request)
    if os.environ.get("RANK", "0") == "0":
        print(f"Profile: {written}. Open {written / 'trace.json.gz'} at https://ui.perfetto.dev")


def profile_run(run: Path, request: TrainConfig) -> Path:
    """Profile the next steps of a run, and leave what was found in RUN/profile.

    Args:
        run: the run's folder.
        request: options of which those that differ from their defaults are taken instead of the run's, where they
            don't alter what is learned.

    Raises:
        ValueError: if there is no such run, or for an option that would make it another one.
    """
    folder = RunFolder(run)
    begun = read_config(folder)
    if request.run.out is not None:
        raise ValueError(f"--out {request.run.out}: the profile of a run goes into its own folder, {folder.profile}")
    config = _with_changes(begun, request)
    if differing := differing_fields(begun, config):
        raise ValueError(
            f"{run} holds a run with another configuration ({'; '.join(differing)}): profile it as it is, or give the "
            "options without a run"
        )
    saved = list_checkpoints(folder.checkpoints)[-1:]
    start_step = int(saved[0].name.rpartition("-")[2]) if saved else 0
    return _profile(folder, config, start_step, copied=[folder.config, *saved])


def profile_request(request: TrainConfig) -> Path:
    """Profile the first steps of a run as it would be, into `profile` in --out or runs/<date>-<arch>-profile.

    Raises:
        ValueError: for what the user can fix.
    """
    config = with_ancestors_choices(request).resolved()
    folder = RunFolder(config.run.out or Path("runs") / f"{date.today().isoformat()}-{config.model.arch}-profile")
    if folder.config.exists():
        raise ValueError(f"{folder.path} already holds a run: fastdcgan profile {folder.path} profiles it")
    return _profile(folder, config, start_step=0, copied=[], batch_named=request.data.batch_size is not None)


def _with_changes(begun: TrainConfig, request: TrainConfig) -> TrainConfig:
    usual, asked = flat(TrainConfig()), flat(request)
    changed = {name: value for name, value in asked.items() if value != usual[name]}
    return from_flat({**flat(begun), **changed})


def _profile(
    folder: RunFolder, config: TrainConfig, start_step: int, copied: list[Path], *, batch_named: bool = True
) -> Path:
    run = config.run
    check_writable(RunFolder(folder.profile))
    aside = RunFolder(folder.profile / ".run")
    last = start_step + run.profile_wait + run.profile_warmup + run.profile_active
    config = replace(
        config,
        run=replace(
            run,
            out=aside.path,
            images=(last + 1) * config.images_a_step,  # the last step of all writes samples and a checkpoint
            epochs=None,
            resume="auto",
            sample_every=_NEVER,
            checkpoint_every=_NEVER,
            evaluate_every=None,
            track="none",
            profile=True,
        ),
    ).resolved()
    accelerator = join(config.execution)
    with (
        stop_requests() as stop,
        lost_ranks_as_one_line(accelerator, config.execution.rank_timeout),
        _copied(folder, aside, copied, accelerator),
        Display(visible=accelerator.is_main_process) as display,
    ):
        config, aside = validate(config, accelerator, batch_named=batch_named)
        prepared = setup(config, aside, accelerator, display, batch_named=batch_named)
        # The budget is of the usual batch: a smaller one, for few pictures, would be more steps.
        prepared = replace(prepared, schedule=replace(prepared.schedule, total=last + 1))
        announce_plan(prepared, display)
        display.say(f"profile   steps {last - run.profile_active + 1:,} to {last:,} of {folder.path}")
        try:
            fit(prepared, stop, display)
        except Stopped as stop:  # nothing is kept that could be gone on with
            raise KeyboardInterrupt from stop
    accelerator.end_training()
    return folder.profile


@contextmanager
def _copied(folder: RunFolder, aside: RunFolder, files: list[Path], accelerator: Accelerator) -> Iterator[None]:
    """Copies of some of a run's files lie aside, the same for all ranks. When all is done, the profile is the run's.

    Raises:
        ValueError: if that can't be written.
    """
    first = accelerator.is_main_process
    if first:
        try:
            shutil.rmtree(aside.path, ignore_errors=True)
            aside.checkpoints.mkdir(parents=True)
            for path in files:
                place_of_it = aside.path / path.relative_to(folder.path)
                _ = shutil.copytree(path, place_of_it) if path.is_dir() else shutil.copy2(path, place_of_it)
        except OSError as error:
            raise ValueError(f"can't write to the profile's folder {folder.profile}: {error.strerror}") from error
    accelerator.wait_for_everyone()
    try:
        yield
        if first:  # ranks leave training together: all have written
            shutil.copytree(aside.profile, folder.profile, dirs_exist_ok=True)
    finally:
        if first:
            shutil.rmtree(aside.path, ignore_errors=True)
