"""The command line: `fastdcgan <verb>`. Options are generated from the configuration's dataclasses."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from fastdcgan.config import TrainConfig

# Heavy imports (torch, Accelerate, DALI) wait until a verb runs, so that --help and a mistyped option answer at once.


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()) -> None:  # noqa: B008
    """Train a DCGAN. Without options: the embedded cartoon faces, in a few minutes on a laptop."""
    from fastdcgan.stopping import Stopped
    from fastdcgan.trainer import train as run_training

    try:
        run_training(config)
    except Stopped as stop:
        message, number = stop.args
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fastdcgan`."""
    _answer(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {"train": train, "generate": generate, "roofline": roofline},
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
