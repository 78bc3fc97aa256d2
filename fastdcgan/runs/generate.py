"""New pictures from a finished or unfinished run."""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture
from fastdcgan.runs.checkpoints.checkpoint import read_generator
from fastdcgan.runs.checkpoints.folder import Named, read_named
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.classes import class_numbers
from fastdcgan.runs.folder import RunFolder, read_architecture, run_id, value_range_of
from fastdcgan.runs.pictures.latents import MAX_SEED, LatentOfEachSeed, Latents, LatentsOfFile, SeedLatents
from fastdcgan.runs.pictures.stream import batch_size, picture_batches
from fastdcgan.runs.pictures.writers import WRITERS, Format, Pictures
from fastdcgan.storage.printable import printable
from fastdcgan.storage.wording import counted

FileFormat = Literal["png", "npy", "npz", "tar"]

DEFAULT_COUNT = 64

MAX_CLASS_IN_NAME = 40
"""Characters of a class in a file's name."""

_NOT_IN_NAMES = re.compile(r"[^\w-]+")

ALWAYS_BUILT_BYTES = 2**28
"""Networks of fewer bytes of weights are built whatever was saved: no machine runs out of memory for them."""


def generate_from_run(
    run: Path,
    *,
    out: Path | None = None,
    count: int | None = None,
    seed: int | None = None,
    seeds: str | None = None,
    latents: Path | None = None,
    truncation: float | None = None,
    format: FileFormat | None = None,
    raw: bool = False,
    checkpoint: Named = "latest",
    classes: Sequence[str] = (),
    on_progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> str:
    """Make pictures with a checkpoint of a run, and write them, in the memory of a batch.

    Stopped and called again with the same arguments, it goes on where it was, and ends with the same bytes.

    Args:
        run: the run's folder.
        out: `*.png` for one grid, `*.npy`, `*.npz` or `*.tar`, anything else for a folder of PNGs. None: `generated`
            with the format's suffix.
        count: how many of one seed, at least 1. None: DEFAULT_COUNT, or all of `seeds` or `latents`.
        seed: of the noise, at least 0; None: 0. The first pictures don't depend on `count`.
        seeds: as `0-99,200`: one picture of each, named by it, instead of `count` of one.
        latents: a `.npy` of them instead.
        truncation: as in `truncate`, above 0.
        format: of `out`; None: as its name says.
        raw: as in `load_generator`.
        checkpoint: as in `load_generator`.
        classes: names of those that pictures are of, in turn. None: of all that were learned.
        on_progress: told what is done, and how many of how many are.

    Returns:
        lines for the user: where the pictures are, after the newer checkpoints that were skipped.

    Raises:
        ValueError: a number is out of range, there is no such run, checkpoint or class, `latents` don't fit, `out`
            can't be written or holds something else.
    """
    check_request(count, seed, seeds, latents, truncation)
    out, kind = _file_and_kind(out, format)
    generator, arch, progress, skipped = load_generator(run, raw=raw, checkpoint=checkpoint)
    chosen = _chosen_latents(arch, count, seed, seeds, latents)
    in_turn = class_numbers(classes, arch)
    value_range = value_range_of(RunFolder(run))
    as_values = value_range if kind in ("npy", "npz") else None
    pictures = pictures_of(generator, arch, chosen, truncation=truncation, classes=in_turn, value_range=as_values)
    pictures = replace(
        pictures,
        request={
            "step": progress.step,
            "weights": _digest(generator),
            **chosen.identity(),
            "truncation": truncation,
            **({"classes in turn": [arch.classes[each] for each in in_turn]} if in_turn else {}),
            "device": next(generator.parameters()).device.type,  # another one rounds in another way
            **({"value_range": list(value_range)} if value_range else {}),
        },
    )
    if pictures.count > pictures.batch:
        pictures = replace(pictures, on_progress=lambda done: on_progress("making pictures", done, pictures.count))
    try:
        WRITERS[kind](pictures, out)
    except OSError as error:
        raise ValueError(
            f"can't write to {out}: {error.strerror or error}; the same command goes on from there"
        ) from error
    said = f"{_counted(len(chosen), in_turn, arch)} from step {progress.step:,} of {run}: {out}"
    if as_values:
        said += ", as float32 of {:g} to {:g}, the data's own values".format(*as_values)
    return with_skipped(skipped, said)


def pictures_of(
    generator: nn.Module,
    arch: Architecture,
    latents: Latents,
    *,
    truncation: float | None = None,
    classes: Sequence[int] = (),
    value_range: tuple[float, float] | None = None,
) -> Pictures:
    """What there is to write of latents: see `picture_batches`. `request` is empty, and nobody is told of progress."""
    return Pictures(
        count=len(latents),
        size=arch.resolution,
        channels=arch.channels,
        batch=batch_size(arch),
        batches=lambda start: picture_batches(
            *(generator, arch, latents), truncation=truncation, start=start, value_range=value_range, classes=classes
        ),
        dtype=np.dtype(np.float32 if value_range else np.uint8),
        name=lambda number: named_by_class(latents.name(number), number, classes, arch),
        classes=len(classes),
        request={},
    )


def _chosen_latents(
    arch: Architecture, count: int | None, seed: int | None, seeds: str | None, file: Path | None
) -> Latents:
    """Raises ValueError where what is given is none."""
    if file is not None:
        return LatentsOfFile(file, arch.latent_dim)
    if seeds is not None:
        return LatentOfEachSeed.parsed(seeds, arch.latent_dim)
    return SeedLatents(seed=seed or 0, count=count or DEFAULT_COUNT, latent_dim=arch.latent_dim)


def _counted(count: int, in_turn: Sequence[int], arch: Architecture) -> str:
    """How many pictures there are, and of which class or how many classes, for people."""
    pictures = counted(count, "picture")
    if len(in_turn) == 1:
        return f"{pictures} of {printable(arch.classes[in_turn[0]])}"
    return f"{pictures} of {len(in_turn):,} classes in turn" if in_turn else pictures


def named_by_class(name: str, number: int, in_turn: Sequence[int], arch: Architecture) -> str:
    """The name of a picture's file, without a suffix, with its class as far as files can be named by it."""
    if not in_turn:
        return name
    return f"{name}-{_NOT_IN_NAMES.sub('-', arch.classes[in_turn[number % len(in_turn)]])[:MAX_CLASS_IN_NAME]}"


def load_generator(
    run: Path, *, raw: bool = False, checkpoint: Named = "latest"
) -> tuple[models.Generator, Architecture, Progress, list[str]]:
    """What a run makes pictures with, from one of its checkpoints, on the GPU if there is one; channels last.

    Args:
        run: the run's folder.
        raw: the generator itself, although there is a moving average of it.
        checkpoint: a step, "best", or "latest": the newest usable one.

    Returns:
        the generator, its architecture, the checkpoint's progress, and why newer checkpoints were skipped, a line each.

    Raises:
        ValueError: there is no such run, or no usable checkpoint in it, or none of this step.
    """
    folder = RunFolder(run)
    arch = read_architecture(folder)
    refuse_too_large(folder, arch)
    with torch.device("meta"):  # no memory is taken before the checkpoint has been found to fit
        generator = models.Generator(arch)
    read = partial(read_generator, generator=generator, arch=arch, run=run_id(folder), raw=raw)
    found, skipped = read_named(folder, checkpoint, read)
    if found is None:
        raise ValueError(f"{run} has no checkpoint yet: nothing was learned that pictures could be made with")
    tensors, progress = found
    generator.load_state_dict(tensors, assign=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # By the layout of channels last twice as many pictures a second were made on CPUs.
    return generator.to(device).to(memory_format=torch.channels_last), arch, progress, skipped


def with_skipped(skipped: Sequence[str], message: str) -> str:
    """The message, after a line for each checkpoint that was skipped."""
    return "\n".join([*(f"passed over: {line}" for line in skipped), message])


def refuse_too_large(folder: RunFolder, arch: Architecture) -> None:
    """Raises ValueError where config.json asks for a network that is large, and larger than all that was saved."""
    weights = sum(layer.weights for layer in arch.generator)
    saved_bytes = sum(file.stat().st_size for file in folder.checkpoints.glob("*/*.safetensors") if file.is_file())
    if 4 * weights > max(saved_bytes, ALWAYS_BUILT_BYTES):
        raise ValueError(
            f"{folder.path} has no checkpoint of the architecture in its config.json: of {weights:,} weights, "
            f"{saved_bytes:,} bytes are there"
        )


def check_request(
    count: int | None, seed: int | None, seeds: str | None, latents: Path | None, truncation: float | None
) -> None:
    """Raises ValueError."""
    if count is not None and count < 1:
        raise ValueError(f"--count {count}: must be at least 1")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"--seed {seed}: must be at least 0 and below 2**63")
    if truncation is not None and not 0 < truncation < math.inf:
        raise ValueError(f"--truncation {truncation}: must be above 0")
    for label, given in (("--seeds", seeds), ("--latents", latents)):
        if given is not None and (count is not None or seed is not None):
            raise ValueError(f"{label} says which pictures, and how many: leave --count and --seed away")
    if seeds is not None and latents is not None:
        raise ValueError("--seeds and --latents are two ways to say which pictures: give one")


def _file_and_kind(out: Path | None, format: FileFormat | None) -> tuple[Path, Format]:
    """Where to write, and what. Raises ValueError where they contradict each other."""
    if out is None:
        out = Path("generated" + {None: ".png", "png": ""}.get(format, f".{format}"))
    said = out.suffix.lower().removeprefix(".")
    if format not in (None, "png", said):
        raise ValueError(f"--format {format} --out {out}: the name must end in .{format}")
    if format == "png" and said in ("npy", "npz", "tar"):
        raise ValueError(f"--format png --out {out}: the name must be a folder's, or end in .png for one grid")
    kinds: dict[str, Format] = {"png": "grid", "npy": "npy", "npz": "npz", "tar": "tar"}
    return out, kinds.get(said, "png")


def _digest(network: nn.Module) -> str:
    """Of all its numbers: 16 hexadecimal digits."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        for part in tensor.cpu().reshape(1) if tensor.dim() == 0 else tensor.cpu():
            found.update(part.contiguous().numpy().tobytes())  # in parts, as the largest tensor is half of the memory
    return found.hexdigest()[:16]
