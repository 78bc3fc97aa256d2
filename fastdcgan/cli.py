"""The command line: `fastdcgan <verb>`. Options are generated from the configuration's dataclasses."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdcgan.config import MAX_DATA_THREADS, ExecutionConfig, PrecisionRequest, TrainConfig
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.storage.printable import printable

_LONGEST = 4_000
"""Characters of an error."""

# Heavy imports (torch, Accelerate, DALI) wait until a verb runs, so that --help and a mistyped option answer at once.


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()) -> None:  # noqa: B008
    """Train a DCGAN. Without options: the embedded cartoon faces, in a few minutes on a laptop."""
    from fastdcgan.storage.signals import Stopped
    from fastdcgan.training.trainer import train as run_training

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
    from fastdcgan.runs.generate import generate_from_run

    print(generate_from_run(run, count=count, seed=seed, out=out))


def interpolate(
    run: tyro.conf.Positional[Path], frames: int = 60, seed: int = 0, out: Path = Path("walk.webp")
) -> None:
    """Walk through what a run's newest checkpoint can make: an animation in a loop, and a still of it beside.

    Args:
        run: the run's folder.
        frames: of the animation.
        seed: the walks are a function of this; they begin at the pictures that generate makes from it.
        out: a file ending in .webp or .gif. The still has the same name, ending in .png.
    """
    from fastdcgan.runs.interpolate import interpolate_from_run

    print(interpolate_from_run(run, frames=frames, seed=seed, out=out))


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write a run's report.html and samples.webp anew, from what is in its folder.

    Args:
        run: the run's folder.
    """
    from fastdcgan.runs.folder import RunFolder
    from fastdcgan.telemetry.report.html import write_report

    folder = RunFolder(run)
    for line in write_report(folder):
        print(f"not shown  {printable(line)}")
    print(f"report     {printable(folder.report)}")


def pack(
    source: tyro.conf.Positional[str],
    resolution: int = 64,
    channels: int | None = None,
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    threads: int | None = None,
) -> None:
    """Decode pictures once into a file of pixels in the cache folder, which training at this size reads ever after.

    A pack that is there is compared with its checksum, and built anew if it is damaged or the pictures have changed.

    Args:
        source: as for train --data.
        resolution: side of the pictures in pixels: 28, or a power of two from 16 to 512.
        channels: 1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for 28x28.
        decoder: as for train.
        threads: that decode pictures. Default: as many as there are cores, at most 8.
    """
    geometry = _geometry(resolution, channels)
    if threads is not None and not 1 <= threads <= MAX_DATA_THREADS:
        raise ValueError(f"--threads {threads}: must be at least 1 and at most {MAX_DATA_THREADS:,}")

    from fastdcgan.data.array import ArraySource
    from fastdcgan.data.open import open_source
    from fastdcgan.data.pack import Pack, ensure_packed
    from fastdcgan.telemetry.terminal.data_tables import packing_rows, show
    from fastdcgan.telemetry.terminal.display import Display

    with Display() as display:
        original = open_source(
            source,
            resolution=geometry.resolution,
            channels=geometry.channels,
            device="cpu",
            threads=threads or min(8, os.cpu_count() or 1),
            decoder=decoder,
            on_progress=display.advance,
        )
        display.say(f"source    {original.description}")
        if isinstance(original, ArraySource):
            display.say("pack      not needed: the pictures are an array of this size already")
            return
        wanted = Pack(original=original, resolution=geometry.resolution, channels=geometry.channels)
        packing = ensure_packed(wanted, display.advance)
    show(packing_rows(wanted, packing, source))


def data(
    source: tyro.conf.Positional[str],
    resolution: int = 64,
    channels: int | None = None,
    out: Path = Path("contact-sheet.png"),
    skipped: Path | None = None,
    decoder: Literal["auto", "dali", "pillow"] = "auto",
) -> None:
    """Describe pictures without training: how many, of which kinds and sizes, what can't be used; a contact sheet.

    Args:
        source: as for train --data.
        resolution: side of the pictures in pixels that training would have: 28, or a power of two from 16 to 512.
        channels: 1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for 28x28.
        out: a PNG of up to 64 pictures, evenly spread over the source, as training sees them.
        skipped: list all files that can't be used in this file too, with reasons.
        decoder: as for train.
    """
    geometry = _geometry(resolution, channels)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: must end in .png")

    from fastdcgan.data.describe import contact_sheet, describe, write_skipped
    from fastdcgan.data.folder import NoUsablePictureError
    from fastdcgan.data.open import open_source
    from fastdcgan.data.stream import normalise
    from fastdcgan.runs.sampling import save_grid
    from fastdcgan.telemetry.terminal.data_tables import facts_rows, show, skipped_by_reason_rows
    from fastdcgan.telemetry.terminal.display import Display

    try:
        with Display() as display:
            opened = open_source(
                source,
                resolution=geometry.resolution,
                channels=geometry.channels,
                device="cpu",
                threads=min(8, os.cpu_count() or 1),
                decoder=decoder,
                on_progress=display.advance,
            )
    except NoUsablePictureError as error:
        show(skipped_by_reason_rows(error.skipped))
        if skipped is not None:
            write_skipped(error.skipped, skipped)
        raise
    facts = describe(opened, resolution=geometry.resolution, channels=geometry.channels)
    show(facts_rows(facts, source))
    if skipped is not None:
        write_skipped(facts.skipped, skipped)
        show([("", f"all listed in {printable(skipped)}")])
    pictures_NHWC = contact_sheet(opened)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_grid(normalise(pictures_NHWC), out)
    except OSError as error:
        raise ValueError(f"can't write to {printable(out)}: {error.strerror or error}") from error
    show([("sheet", f"{len(pictures_NHWC)} of them as training sees them: {printable(out)}")])


def profile(
    run: tyro.conf.Positional[Path | None] = None,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008
) -> None:
    """Record a few steps: traces for Perfetto and TensorBoard, memory, the costliest operators, what binds the step.

    Args:
        run: a run's folder: its next steps, with its weights and options. Its checkpoints and metrics stay as they are.
            Without one, options as for train say what is profiled.
        config: options, as for train.
    """
    from fastdcgan.training.profile import profile_request, profile_run

    written = profile_run(run, config) if run is not None else profile_request(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"Profile: {written}. Open {written / 'trace.json.gz'} at https://ui.perfetto.dev")


def roofline(arch: str = "dcgan64", width: int | None = None, batch_size: int = 128) -> None:
    """Say how fast the roofline model lets an architecture train: on this CPU (measured), on known GPUs (predicted).

    Args:
        arch: dcgan28, or dcganR for a power of two R from 16 to 512.
        width: feature maps at the finest hidden level. Default: the architecture's.
        batch_size: pictures an iteration.
    """
    from rich.console import Console

    from fastdcgan.limits.roofline import measure_ceilings
    from fastdcgan.telemetry.terminal.limit_tables import limits_table, prediction_table

    geometry = architecture(arch, width=width)
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: must be at least 1")
    Console().print(limits_table(geometry, batch_size, measure_ceilings()), prediction_table(geometry, batch_size))


def scale(
    arch: str = "dcgan64",
    width: int | None = None,
    batch_size: int = 128,
    gpu: str = "h100",
    gpus: str = "1..512",
    link: str = "nvlink+infiniband",
    precision: Literal["fp32", "bf16"] = "bf16",
    compile: Literal["off", "step"] = "off",
    gradients: Literal["fp32", "bf16"] = "fp32",
    batch_norm: Literal["local", "sync"] = "local",
    scaling: Literal["both", "strong", "weak"] = "both",
) -> None:
    """Predict, from datasheets and without any GPU, how training scales over many of them.

    Args:
        arch: dcgan28, or dcganR for a power of two R from 16 to 512.
        width: feature maps at the finest hidden level. Default: the architecture's.
        batch_size: pictures an iteration: of all GPUs together where scaling is strong, of each where it is weak.
        gpu: a100, h100 or h200.
        gpus: how many: 8, or 1,2,4, or 1..512 for the powers of two in between.
        link: nvlink joins up to 8 GPUs; nvlink+NETWORK joins nodes of 8, and NETWORK alone nodes of one GPU. NETWORK:
            infiniband (400 Gb/s for each GPU), ethernet100, ethernet25 or ethernet10 (Gb/s for each node).
        precision: of the arithmetic.
        compile: off launches operator by operator; step replays a captured iteration, as in train.
        gradients: as they are sent: bf16 halves the bytes.
        batch_norm: local statistics, or sync: of all GPUs.
        scaling: strong divides one batch among the GPUs, weak gives each one of its own.
    """
    from rich.console import Console

    from fastdcgan.limits.allreduce import gpu_fabrics, max_gpus
    from fastdcgan.limits.roofline import find_gpu
    from fastdcgan.limits.scaling import Communication, batch_norm_messages, parse_gpu_counts
    from fastdcgan.telemetry.terminal.scaling_tables import scaling_table

    geometry = architecture(arch, width=width)
    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: must be at least 1")
    name, datasheet = find_gpu(gpu)
    counts = parse_gpu_counts(gpus)
    if (most := max_gpus(link)) is not None and counts[-1] > most:
        raise ValueError(f"--link {link} joins at most {most} GPUs: for {counts[-1]} add a network, nvlink+infiniband")
    sharing = Communication(
        fabrics=gpu_fabrics(link, name),
        overlapped=compile != "step",
        buckets=compile != "step",
        bytes_per_number=2 if gradients == "bf16" else 4,
        batch_norm=batch_norm_messages(geometry) if batch_norm == "sync" else (),
    )
    for kind in ("strong", "weak") if scaling == "both" else (scaling,):
        Console().print(scaling_table(kind, geometry, batch_size, datasheet, precision, counts, link, sharing))


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

    from fastdcgan.distributed.accelerator import join, with_launcher_precision
    from fastdcgan.limits.roofline import device_ceilings
    from fastdcgan.telemetry.terminal.plan_tables import plans_as_data, plans_table, write_plans
    from fastdcgan.tuning.choice import chosen_plan, measurement_conditions, save_choice
    from fastdcgan.tuning.tune import candidate_plans, measure_plans

    geometry = architecture(arch, width=width, channels=channels)
    for label, number in (("--batch-size", batch_size), ("--seconds", seconds), ("--threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{label} {number}: must be at least 1")
    request = ExecutionConfig(device=device, precision=precision, compile=compile, threads=threads)
    accelerator = join(request)
    if accelerator.num_processes > 1:
        raise ValueError(f"fastdcgan tune measures in one process, not in {accelerator.num_processes}")
    request, where = with_launcher_precision(request), accelerator.device
    plans = candidate_plans(request, where)
    console = Console(highlight=False)
    with console.status("measuring this machine") as status:
        machine = device_ceilings(where)
        tuning = measure_plans(plans, geometry, batch_size, where, seconds, say=status.update)
    console.print(plans_table(tuning, machine))
    conditions = measurement_conditions(request, where, geometry, batch_size, world_size=1)
    if json is not None:
        write_plans(json, plans_as_data(tuning, machine, conditions))
    console.print(f"The fastest is {chosen_plan(tuning)}.")
    if (kept := save_choice(conditions, tuning)) is not None:
        console.print(
            f"fastdcgan train uses it from now on for {arch} in batches of {batch_size}: {kept}", soft_wrap=True
        )
    else:
        console.print("It can't be kept, as the cache can't be written: set FASTDCGAN_CACHE to a folder that can.")


def _geometry(resolution: int, channels: int | None) -> Architecture:
    """The network that makes pictures of this size. Raises ValueError if there is none."""
    return architecture("dcgan28" if resolution == 28 else "dcgan64", resolution=resolution, channels=channels)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `fastdcgan`."""
    _answer(
        lambda: tyro.extras.subcommand_cli_from_dict(
            {
                "train": train,
                "generate": generate,
                "interpolate": interpolate,
                "report": report,
                "data": data,
                "pack": pack,
                "profile": profile,
                "roofline": roofline,
                "scale": scale,
                "tune": tune,
            },
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
        message = _in_one_line(str(error))
        print(f"fastdcgan: error: {f'rank {rank}: ' if rank != '0' else ''}{message}", file=sys.stderr)
        _tell_launcher(message)
        sys.exit(2)
    except KeyboardInterrupt:
        print("fastdcgan: interrupted", file=sys.stderr)
        sys.exit(130)


def _in_one_line(message: str) -> str:
    """What any terminal can print, of a bounded length: files that others made have a say in it."""
    if len(message) > _LONGEST:
        message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
    return printable(message)


def _tell_launcher(error: str) -> None:
    """Leave the line where torchrun and accelerate look for it, so that the summary they end with says why."""
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        more = {"py_callstack": error, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": error, "extraInfo": more}}), encoding="utf-8")
