"""The command line: `fastdcgan <verb>`. Options are generated from the configuration's dataclasses."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdcgan.config import ExecutionConfig, PrecisionRequest, TrainConfig

# Heavy imports (torch, Accelerate, DALI) wait until a verb runs, so that --help and a mistyped option answer at once.


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()) -> None:  # noqa: B008
    """Train a DCGAN. Without options: the embedded cartoon faces, in a few minutes on a laptop."""
    from fastdcgan.stopping import Stopped
    from fastdcgan.trainer import train as run_training

    try:
        run_training(config)
    except Stopped as stop:
        message, number = stop.args
        # All is saved. When the first rank has left, the launcher ends the others, which are just leaving too.
        for name in {signal.SIGTERM, signal.Signals(number)}:
            signal.signal(name, signal.SIG_IGN)
        if os.environ.get("RANK", "0") == "0":
            print(f"fastdcgan: {message}", file=sys.stderr)
        sys.exit(128 + number)


def generate(
    run: tyro.conf.Positional[Path], count: int = 64, seed: int = 0, out: Path = Path("generated.png")
) -> None:
    """Make pictures with a run's newest checkpoint.

    Args:
        run: the run's folder.
        count: how many pictures.
        seed: the pictures are a function of this; the first ones don't depend on the count.
        out: a file ending in .png for one grid, or a folder for one PNG a picture.
    """
    from fastdcgan.generate import generate_from_run

    print(generate_from_run(run, count=count, seed=seed, out=out))


def roofline(arch: str = "dcgan64", width: int | None = None, batch_size: int = 128) -> None:
    """Say how fast the roofline model lets an architecture train: on this CPU (measured), on known GPUs (predicted).

    Args:
        arch: dcgan28, or dcganR for a power of two R from 16 to 512.
        width: feature maps at the finest hidden level. Default: the architecture's.
        batch_size: pictures an iteration.
    """
    from rich.console import Console

    from fastdcgan.architecture import architecture
    from fastdcgan.roofline import measure_ceilings
    from fastdcgan.telemetry.limits import limits_table, prediction_table

    geometry = architecture(arch, width=width)
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: must be at least 1")
    Console().print(limits_table(geometry, batch_size, measure_ceilings()), prediction_table(geometry, batch_size))


def tune(
    arch: str = "dcgan64",
    width: int | None = None,
    channels: int | None = None,
    batch_size: int = 128,
    precision: PrecisionRequest = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    seconds: float = 60.0,
    device: Literal["auto", "cpu"] = "auto",
    threads: int | None = None,
    json: Path | None = None,
) -> None:
    """Measure which plan for the training step is fastest here. `fastdcgan train` then uses it for such a run.

    Args:
        arch: dcgan28, or dcganR for a power of two R from 16 to 512.
        width: feature maps at the finest hidden level. Default: the architecture's.
        channels: 1, 3 or 4. Default: the architecture's.
        batch_size: pictures an iteration.
        precision: only plans of this precision. auto: all that the hardware multiplies.
        compile: as for train.
        seconds: about how long to measure.
        device: auto: CUDA, else MPS, else the CPU.
        threads: as for train.
        json: write the figures to this file too.
    """
    from rich.console import Console

    from fastdcgan.architecture import architecture
    from fastdcgan.choice import conditions_of, fastest, remember
    from fastdcgan.distributed import join, requested
    from fastdcgan.roofline import ceilings_of
    from fastdcgan.telemetry.plans import plans_as_data, plans_table, write_plans
    from fastdcgan.tune import candidates, measure

    geometry = architecture(arch, width=width, channels=channels)
    for label, number in (("--batch-size", batch_size), ("--seconds", seconds), ("--threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{label} {number}: must be at least 1")
    request = ExecutionConfig(device=device, precision=precision, compile=compile, threads=threads)
    accelerator = join(request)
    if accelerator.num_processes > 1:
        raise ValueError(f"fastdcgan tune measures in one process, not in {accelerator.num_processes}")
    request, where = requested(request), accelerator.device
    plans = candidates(request, where)
    console = Console(highlight=False)
    with console.status("measuring this machine") as status:
        machine = ceilings_of(where)
        tuning = measure(plans, geometry, batch_size, where, seconds, say=status.update)
    console.print(plans_table(tuning, machine))
    conditions = conditions_of(request, where, geometry, batch_size, world_size=1)
    if json is not None:
        write_plans(json, plans_as_data(tuning, machine, conditions))
    console.print(f"The fastest is {fastest(tuning)}.")
    if (kept := remember(conditions, tuning)) is not None:
        console.print(
            f"fastdcgan train uses it from now on for {arch} in batches of {batch_size}: {kept}", soft_wrap=True
        )
    else:
        console.print("It can't be kept, as the cache can't be written: set FASTDCGAN_CACHE to a folder that can.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fastdcgan`."""
    _answer(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"train": train, "generate": generate, "roofline": roofline, "tune": tune},
            prog="fastdcgan",
            description="The fastest honest way to train a DCGAN.",
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    )


def train_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `train.py`: the verb `train`, as launchers want it."""
    _answer(lambda: tyro.cli(train, prog="train.py", args=arguments, config=(tyro.conf.OmitArgPrefixes,)))


def _answer(run: Callable[[], object]) -> None:
    """Turn what a user can fix into one line and exit code 2."""
    try:
        run()
    except ValueError as error:
        if os.environ.get("FASTDCGAN_TRACEBACK"):
            raise
        rank = os.environ.get("RANK", "0")
        print(f"fastdcgan: error: {f'rank {rank}: ' if rank != '0' else ''}{error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fastdcgan: interrupted", file=sys.stderr)
        sys.exit(130)
