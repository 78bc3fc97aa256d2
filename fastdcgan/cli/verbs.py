"""The verbs: their options, which are the parameters, and what each calls. The docstrings are the help."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from fastdcgan.cli.waiting import load_torch_to_sleep_while_waiting
from fastdcgan.config import DataConfig, ExecutionConfig, Fit, PrecisionRequest, TrainConfig
from fastdcgan.gan.architecture import architecture

# Heavy imports (torch, Accelerate, DALI) wait until a verb runs, so that --help and a mistyped option answer at once.


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig()) -> None:  # noqa: B008
    """Train a DCGAN: without options on embedded cartoon faces, in a few minutes."""
    from fastdcgan.training.trainer import train

    train(config)


def generate(
    run: tyro.conf.Positional[Path],
    count: int | None = None,
    seed: int | None = None,
    seeds: str | None = None,
    latents: Path | None = None,
    truncation: float | None = None,
    out: Path | None = None,
    format: Literal["png", "npy", "npz", "tar"] | None = None,
    weights: Literal["average", "last"] = "average",
    checkpoint: Literal["latest", "best"] | int = "latest",
    class_: Annotated[tuple[str, ...] | None, tyro.conf.arg(name="class")] = None,
) -> None:
    """Make pictures with what a run has learned, as many as you like.

    Stopped at any time, the same command goes on.

    Args:
        run: The run's folder.
        count: How many pictures. Default: 64.
        seed: The pictures are a function of this; the first ones don't depend on the count. Default: 0.
        seeds: One picture of each of these seeds instead, its first, named by it: 0-99, or 3,7,20-29. Default: many
            of one seed.
        latents: One picture of each row of a .npy of numbers [N, latent-dim] instead. Default: those of the seed.
        truncation: Keep the latents below this, as if larger ones were drawn anew: at 1 pictures vary less, and fewer
            are bad. Default: as G was trained.
        out: A file ending in .png for one grid, in .npy, .npz or .tar for all in a file, or a folder for one PNG a
            picture. Default: generated.png, or as --format says.
        format: png: one PNG a picture. npy, npz: pixels, uint8 [N, H, W, C]; float32 in the data's own range, where
            that was scaled to bytes. tar: PNGs, as WebDataset has them. Default: as the name of --out says.
        weights: average: those of G's moving average, where the run has one. last: as the last step left them.
        checkpoint: latest: the newest that is whole. best: by the run's evaluations. Or its step.
        class_: The class that pictures are of, of a run that has learned classes; of several: in turn. Default: all.
    """
    load_torch_to_sleep_while_waiting()
    from fastdcgan.runs.generate import generate_from_run
    from fastdcgan.telemetry.terminal.display import Display

    with Display() as display:
        made = generate_from_run(
            run,
            out=out,
            count=count,
            seed=seed,
            seeds=seeds,
            latents=latents,
            truncation=truncation,
            format=format,
            raw=weights == "last",
            checkpoint=checkpoint,
            classes=class_ or (),
            on_progress=display.advance,
        )
    print(made)


def data(
    source: tyro.conf.Positional[str],
    resolution: int | str = 64,
    channels: int | None = None,
    fit: Fit = "crop",
    out: Path = Path("contact-sheet.png"),
    skipped: Path | None = None,
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    value_range: str = "auto",
    drop_duplicates: bool = False,
    json: Path | None = None,
) -> None:
    """Describe pictures: kinds, sizes, classes, copies, damage; a contact sheet.

    Args:
        source: As for train --data.
        resolution: Size of the pictures in pixels that training would have: 96, or 128x64 (height x width).
        channels: 1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for 28x28.
        fit: How pictures of another shape are brought to this one: as for train.
        out: A PNG of up to 64 pictures, evenly spread over the source, as training sees them.
        skipped: List all files that are left out in this file too, with reasons. Default: no file.
        decoder: As for train.
        value_range: As for train.
        drop_duplicates: As for train.
        json: Write the facts to this file too. Default: no file.
    """
    from fastdcgan.telemetry.terminal.data_commands import Request, describe_data

    request = Request(
        resolution=resolution,
        channels=channels,
        data=DataConfig(
            data=source, fit=fit, decoder=decoder, value_range=value_range, drop_duplicates=drop_duplicates
        ),
    )
    describe_data(request, out=out, skipped=skipped, json=json)


def pack(
    source: tyro.conf.Positional[str],
    resolution: int | str = 64,
    channels: int | None = None,
    fit: Fit = "crop",
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    threads: int | None = None,
    value_range: str = "auto",
    drop_duplicates: bool = False,
) -> None:
    """Decode pictures once, into a pack of pixels that training at this size reads.

    One that is there is checked, and built anew if it is damaged or out of date.

    Args:
        source: As for train --data.
        resolution: Size of the pictures in pixels: 96, or 128x64 (height x width).
        channels: 1 (greyscale), 3 (RGB) or 4 (RGB and alpha). Default: 3; 1 for 28x28.
        fit: How pictures of another shape are brought to this one: as for train.
        decoder: As for train.
        threads: Threads that decode pictures. Default: as many as there are cores, at most 8.
        value_range: As for train.
        drop_duplicates: As for train.
    """
    from fastdcgan.telemetry.terminal.data_commands import Request, pack_data

    request = Request(
        resolution=resolution,
        channels=channels,
        data=DataConfig(
            data=source,
            fit=fit,
            decoder=decoder,
            data_threads=threads,
            value_range=value_range,
            drop_duplicates=drop_duplicates,
        ),
    )
    pack_data(request)


def report(run: tyro.conf.Positional[Path]) -> None:
    """Write a run's report.html and samples.webp anew, from what is in its folder.

    Args:
        run: The run's folder.
    """
    from fastdcgan.telemetry.report.html import rewrite_report

    rewrite_report(run)


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(help_behavior_hint="(required)")],
    images: int = 10_000,
    checkpoint: Literal["latest", "best", "all"] | int = "latest",
    metric: Literal["kernel", "frechet", "precision", "recall"] | None = None,
    weights: Literal["both", "average", "last"] = "both",
    extractor: Literal["auto", "efficientnet-lite0", "inception"] = "auto",
    inception_weights: Path | None = None,
    data: str | None = None,
    seed: int = 0,
    repeats: int = 1,
    json: Path | None = None,
) -> None:
    """Measure how near a run's pictures come to those that it was trained on.

    Args:
        runs: Runs' folders. Of several, mean and spread are shown too.
        images: How many pictures are compared with as many real ones; all real ones where there are fewer.
        checkpoint: latest: the newest that is whole. best: by the evaluations so far. all: each that there is, and the
            best of them becomes the run's best. Or a step.
        metric: With --checkpoint all: the figure that the best is told by. Default: as the run was trained with.
        weights: average: those of G's moving average. last: as the last step left them. both.
        extractor: The network whose features are compared: efficientnet-lite0, or inception, which is FID's. auto:
            inception where --inception-weights are given, else efficientnet-lite0.
        inception_weights: torch-fidelity's file of FID's Inception. Default: downloaded, if inception is asked for.
        data: Compare with these pictures, which are named as for train. Default: those that the run was trained on.
        seed: The pictures are a function of this.
        repeats: How many sets of pictures are drawn and measured, for mean and spread.
        json: Write the figures to this file too. Default: no file.
    """
    load_torch_to_sleep_while_waiting()
    from fastdcgan.evaluation.evaluate import Request
    from fastdcgan.telemetry.terminal.evaluation_commands import evaluate

    request = Request(
        images=images,
        checkpoint=checkpoint,
        metric=metric,
        weights=weights,
        extractor=extractor,
        inception_weights=inception_weights,
        data=data,
        seed=seed,
        repeats=repeats,
    )
    evaluate(runs, request, out=json)


def interpolate(
    run: tyro.conf.Positional[Path],
    frames: int = 60,
    seed: int = 0,
    out: Path = Path("walk.webp"),
    checkpoint: Literal["latest", "best"] | int = "latest",
    class_: Annotated[tuple[str, ...] | None, tyro.conf.arg(name="class")] = None,
) -> None:
    """Walk through what a run has learned: an animation in a loop, and a still.

    Args:
        run: The run's folder.
        frames: Frames of the animation.
        seed: The walks are a function of this; they begin at the pictures that generate makes from it.
        out: A file ending in .webp, .gif or .mp4 (pip install 'fastdcgan[video]'). The still has the same name, ending
            in .png.
        checkpoint: As for generate.
        class_: The class that walks are of, of a run that has learned classes; of several: in turn. Default: all.
    """
    load_torch_to_sleep_while_waiting()
    from fastdcgan.runs.interpolate import interpolate_from_run

    made = interpolate_from_run(run, frames=frames, seed=seed, out=out, checkpoint=checkpoint, classes=class_ or ())
    print(made)


def import_weights(
    generator: tyro.conf.Positional[Path],
    discriminator: tyro.conf.Positional[Path | None] = None,
    out: Path = Path("runs/imported"),
) -> None:
    """Make a run of weights from PyTorch's DCGAN example or tutorial.

    Args:
        generator: A file like netG.pth, of a state_dict. Nothing in it is run.
        discriminator: A file like netD.pth. Default: a new discriminator.
        out: The run's folder, a new one.
    """
    from fastdcgan.export.tutorial import import_weights

    print(import_weights([file for file in (generator, discriminator) if file], out))


import_weights.__name__ = "import"  # the verb, which is a word of Python's own


def export(
    run: tyro.conf.Positional[Path],
    to: Literal["onnx", "torch", "hub", "web", "tutorial"] = "onnx",
    out: Path = Path("exported"),
    checkpoint: Literal["latest", "best"] | int = "latest",
    weights: Literal["average", "last"] = "average",
    precision: Literal["fp32", "fp16"] = "fp32",
    runtime: Path | None = None,
) -> None:
    """Write what a run has learned for other programs, checked to draw the same.

    Args:
        run: The run's folder.
        to: onnx: generator.onnx, for onnxruntime and what else reads ONNX. torch: generator.pt2, for PyTorch without
            this package. hub: a folder ready for the Hugging Face Hub, which from_pretrained opens. web: a folder for
            any web server, with a page that plays the generator in the browser. tutorial: netG.pth and netD.pth, as
            PyTorch's DCGAN example and tutorial load them.
        out: A folder.
        checkpoint: As for generate.
        weights: As for generate; tutorial has the last ones, which D has learned with.
        precision: Of weights and arithmetic in onnx and torch; the pictures are fp32. fp16: half the size, for GPUs.
        runtime: For web: a folder with onnxruntime-web's files. Default: they are fetched once, by npm.
    """
    if precision != "fp32" and to not in ("onnx", "torch"):
        raise ValueError(f"--precision {precision} is for --to onnx and --to torch, not for --to {to}")
    if runtime is not None and to != "web":
        raise ValueError(f"--runtime {runtime} is for --to web, not for --to {to}")
    if to == "tutorial":
        from fastdcgan.export.tutorial import export_tutorial

        if (checkpoint, weights) != ("latest", "average"):
            raise ValueError(
                "--to tutorial writes the newest checkpoint's last weights: leave --checkpoint and --weights away"
            )
        print(export_tutorial(run, out))
        return
    raw = weights == "last"
    if to == "onnx":
        from fastdcgan.export.onnx_file import export_onnx

        print(export_onnx(run, out, checkpoint=checkpoint, raw=raw, precision=precision))
    elif to == "torch":
        from fastdcgan.export.exported_program import export_torch

        print(export_torch(run, out, checkpoint=checkpoint, raw=raw, precision=precision))
    elif to == "web":
        from fastdcgan.export.web_page import export_web

        print(export_web(run, out, checkpoint=checkpoint, raw=raw, runtime=runtime))
    else:
        from fastdcgan.export.hub import export_hub

        print(export_hub(run, out, checkpoint=checkpoint, raw=raw))


def profile(
    run: tyro.conf.Positional[Path | None] = None,
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = TrainConfig(),  # noqa: B008
) -> None:
    """Record a few steps: traces, memory, costliest operators, what binds the step.

    Args:
        run: A run's folder: its next steps, with its weights and options. Its checkpoints and metrics stay as they are.
            Default: no run, but the first steps of what the options say.
        config: As for train.
    """
    from fastdcgan.training.profile import profile

    profile(run, config)


def tune(
    arch: str = "dcgan64",
    width: int | None = None,
    channels: int | None = None,
    batch_size: int = 128,
    precision: PrecisionRequest = "auto",
    compile: Literal["auto", "on", "off"] = "auto",
    seconds: float = 60.0,
    device: str = "auto",
    threads: int | None = None,
    json: Path | None = None,
) -> None:
    """Measure which plan for a training step is fastest here, for train to use.

    Args:
        arch: dcgan28, dcgan64, dcgan96, dcgan128x64 ...: as for train.
        width: Feature maps at the finest hidden level. Default: the architecture's.
        channels: 1, 3 or 4. Default: the architecture's.
        batch_size: Pictures an iteration.
        precision: Only plans of this precision. auto: all that the hardware multiplies.
        compile: As for train.
        seconds: About how long to measure.
        device: auto: CUDA, else MPS, else the CPU; or cpu, cuda, mps, or cuda:N for one of several, counted from 0.
        threads: Threads for arithmetic on a CPU. Default: OMP_NUM_THREADS, else all cores.
        json: Write the figures to this file too. Default: no file.
    """
    from fastdcgan.training.tune import tune

    request = ExecutionConfig(device=device, precision=precision, compile=compile, threads=threads)
    tune(architecture(arch, width=width, channels=channels), batch_size, request, seconds=seconds, out=json)


def roofline(arch: str = "dcgan64", width: int | None = None, batch_size: int = 128) -> None:
    """Say how fast a network could train: on this CPU by measurement, on known GPUs.

    Args:
        arch: dcgan28, dcgan64, dcgan96, dcgan128x64 ...: as for train.
        width: Feature maps at the finest hidden level. Default: the architecture's.
        batch_size: Pictures an iteration.
    """
    from fastdcgan.telemetry.terminal.limit_tables import show_limits

    show_limits(architecture(arch, width=width), batch_size)


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
    critical_batch: float = 75.0,
) -> None:
    """Predict, from datasheets and without any GPU, how training scales over many.

    Args:
        arch: dcgan28, dcgan64, dcgan96, dcgan128x64 ...: as for train.
        width: Feature maps at the finest hidden level. Default: the architecture's.
        batch_size: Pictures an iteration: of all GPUs together where scaling is strong, of each where it is weak.
        gpu: a100, h100 or h200.
        gpus: How many: 8, or 1,2,4, or 1..512 for the powers of two in between.
        link: nvlink joins up to 8 GPUs; nvlink+NETWORK joins nodes of 8, and NETWORK alone nodes of one GPU. NETWORK:
            infiniband (400 Gb/s for each GPU), ethernet100, ethernet25 or ethernet10 (Gb/s for each node).
        precision: Precision of the arithmetic.
        compile: off launches operator by operator; step replays a captured iteration, as in train.
        gradients: Precision in which they are sent: bf16 halves the bytes.
        batch_norm: local statistics, or sync: of all GPUs.
        scaling: strong divides one batch among the GPUs, weak gives each one of its own.
        critical_batch: Pictures of a batch from which on larger ones need more images for the same quality:
            1 + batch / this. Measured for small networks on the embedded faces only.
    """
    from fastdcgan.telemetry.terminal.scaling_tables import show_scaling

    show_scaling(
        architecture(arch, width=width),
        batch_size,
        gpu=gpu,
        gpus=gpus,
        links=link,
        precision=precision,
        captured=compile == "step",
        bytes_per_number=2 if gradients == "bf16" else 4,
        synchronised=batch_norm == "sync",
        critical_batch=critical_batch,
        scalings=("strong", "weak") if scaling == "both" else (scaling,),
    )


def doctor(speed: bool = True, json: Path | None = None) -> None:
    """Say what is here to train with, what is used, what is broken; for bug reports.

    Exit code 1: something that training needs is broken.

    Args:
        speed: Check the plans' parity with the reference, and time the default one; about ten seconds.
        json: Write the findings to this file too. Default: no file.
    """
    from fastdcgan.doctor.diagnose import diagnose

    if not diagnose(measure=speed, out=json):
        raise SystemExit(1)
