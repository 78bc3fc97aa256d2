"""What a run says of itself, before its first step and after its last."""

from typing import cast

import torch

from fastdcgan.config import describe_recipe
from fastdcgan.data.source import (
    ImageSource,
    common_suffixes,
    count_files,
    describe_hidden,
    describe_skipped,
    is_passed_over,
)
from fastdcgan.distributed.launcher import launch_command, overruled_settings
from fastdcgan.evaluation.best import known_best
from fastdcgan.execution.plan import why_no_kernels
from fastdcgan.gan import models
from fastdcgan.gan.average import half_life
from fastdcgan.runs.classes import MOST_ROWS
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.wording import counted
from fastdcgan.telemetry.terminal.data_tables import classes_in_words, files_that_are_no_pictures
from fastdcgan.telemetry.terminal.display import Display
from fastdcgan.training.run import Run
from fastdcgan.training.starting.begin import describe_ancestor

MOST_LISTED = 10
"""Files that can't be used, named one by one."""


def announce(run: Run, display: Display) -> None:
    """Say what is about to happen."""
    schedule, accelerator, arch = run.schedule, run.accelerator, run.arch
    ranks = f" x {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    display.say(f"data      {run.source.description}")
    list_skipped(run.source, run.folder, display)
    announce_classes(run, display)
    display.say(
        f"networks  {arch.name}, {arch.channels}x{arch.resolution}, width {arch.width}: "
        f"G {models.parameter_count(run.state.generator):,} and "
        f"D {models.parameter_count(run.state.discriminator):,} parameters"
    )
    threads = f", {counted(torch.get_num_threads(), 'thread')}" if accelerator.device.type == "cpu" else ""
    display.say(f"device    {accelerator.device}{ranks}{threads}")
    announce_idle_devices(run, display)
    announce_plan(run, display)
    batch, taken, d_steps = cast(int, run.config.data.batch_size), run.config.images_a_step, run.config.recipe.d_steps
    for_each = f" for each of D's {d_steps} updates" if d_steps > 1 else ""
    display.say(
        f"budget    {schedule.total * taken:,} images: {counted(schedule.total, 'step')} of {batch}{for_each}, "
        f"{schedule.total / schedule.per_epoch:.1f} epochs"
    )
    announce_recipe(run, display)
    if run.state.average is not None:
        average = run.state.average
        most = half_life(average.decay) * taken
        display.say(
            f"average   of G, for pictures: with a half-life of {average.ramp:g} of the images so far (--ema-ramp), "
            f"at most {most:,.0f} (--ema)"
        )
    display.say(f"output    {run.folder.path}")
    for line in describe_ancestor(run.ancestor, run.config) if run.ancestor else ():
        display.say(line)
    if run.start.step:
        display.say(f"resuming  after step {run.start.step:,} ({run.start.images:,} images)")


def announce_classes(run: Run, display: Display) -> None:
    """Say which classes pictures are of, how many of each, and whether they are learned."""
    labels = run.labels or run.source.labels
    if labels is None:
        return
    if run.labels is None:
        display.say(f"classes   not used, all are learned together (--conditional: each): {classes_in_words(labels)}")
        return
    display.say(f"classes   {classes_in_words(labels)}")
    if (count := len(labels.classes)) > MOST_ROWS:
        display.say(f"          sample grids have a row for each of the {MOST_ROWS} largest of the {count:,}")


def announce_recipe(run: Run, display: Display) -> None:
    """Say what the recipe set, and what was named otherwise."""
    if said := describe_recipe(run.config):
        display.say(f"recipe    {said}")


def announce_plan(run: Run, display: Display) -> None:
    """Say how steps are executed, and why."""
    display.say(f"plan      {run.plan}: {run.why_this_plan}")
    if why := why_no_kernels(run.plan, run.accelerator.device):
        display.say(f"kernels   PyTorch's; ours, which are faster, can't be used: {why}")
    for setting in overruled_settings(run.config.execution, run.plan, run.config.recipe.accumulate):
        display.say(f"launcher  overruled: {setting}")


def announce_idle_devices(run: Run, display: Display) -> None:
    """Say how all GPUs would be used, where one process uses one of several without having been asked for that one."""
    accelerator, asked = run.accelerator, run.config.execution.device
    if accelerator.num_processes > 1 or accelerator.device.type != "cuda" or ":" in asked:
        return
    if (count := torch.cuda.device_count()) > 1:
        display.say(f"          one of {count} GPUs is used; the same options on all: {launch_command(count)}")


def announce_end(run: Run, display: Display) -> None:
    """Say where everything is, and what to do next."""
    folder, config = run.folder, run.config
    display.say(f"Done. Samples, losses.png, metrics and checkpoints are in {folder.path}", always=True)
    display.say(f"See what happened:  {folder.report}")
    if config.run.profile:
        display.say(f"Look at the profile: open {folder.profile / 'trace.json.gz'} at https://ui.perfetto.dev")
    if best := known_best(folder, run.schedule.total):
        display.say(f"Best checkpoint:    of step {best.step:,} ({best.metric}: {best.value:.4f})")
        display.say(f"                    fastdcgan generate {folder.path} --checkpoint best")
    display.say(f"Make new pictures:  fastdcgan generate {folder.path} --count 64 --out grid.png")
    if config.data.data == "faces":
        display.say("Train bigger:       fastdcgan train --arch dcgan64 --images 100000")
        display.say("                    (--data FOLDER for your own images)")


def announce_nothing_to_do(run: Run, display: Display) -> None:
    """Say that the run has come to its end already, and how to go on."""
    display.say(
        f"Nothing to do: {run.folder.path} has seen {run.start.images:,} images already. "
        "Ask for more with --images or --epochs, or choose another --out.",
        always=True,
    )


def list_skipped(source: ImageSource, folder: RunFolder, display: Display) -> None:
    """Name the first damaged files with reasons; count the others, those that are no pictures, and hidden ones."""
    damaged = [skip for skip in source.skipped if not skip.not_a_picture and not is_passed_over(skip)]
    passed_over = [skip for skip in source.skipped if is_passed_over(skip)]
    others = [skip for skip in source.skipped if skip.not_a_picture and not skip.hidden]
    listed = f"all listed in {folder.skipped}"
    if damaged:
        display.say(f"skipped   {counted(count_files(damaged), 'file')} that can't be used:")
        for skip in damaged[:MOST_LISTED]:
            display.say(f"          {describe_skipped(skip)}")
        if len(damaged) > MOST_LISTED:
            display.say(f"          and {count_files(damaged[MOST_LISTED:]):,} more, {listed}")
    if others:
        names = f" ({common_suffixes(others)})" if common_suffixes(others) else ""
        begin = "          and" if damaged else "skipped  "
        display.say(f"{begin} {files_that_are_no_pictures(count_files(others))}{names}, {listed}")
    if passed_over:
        first = describe_skipped(passed_over[0])
        display.say(f"left out  {counted(count_files(passed_over), 'picture')}, {listed}; the first: {first}")
    if hidden := describe_hidden(source.skipped):
        display.say(f"left out  {hidden}, listed in {folder.skipped}")
