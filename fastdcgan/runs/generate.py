"""New pictures from a finished or unfinished run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs import checkpoint
from fastdcgan.runs.checkpoint import Progress
from fastdcgan.runs.folder import RunFolder, read_config, run_id
from fastdcgan.runs.sampling import generate, save_each, save_grid

MODEST = 2**28
"""Bytes of weights for which nobody runs out of memory."""


def generate_from_run(run: Path, *, count: int, seed: int, out: Path) -> str:
    """Make `count` pictures with a run's newest checkpoint and say where they are, and which newer ones are damaged.

    Args:
        run: the run's folder.
        count: how many, at least 1.
        seed: the noise is a function of this; the first pictures don't depend on the count.
        out: `*.png` for one grid, anything else for a folder of PNGs.

    Raises:
        ValueError: if there is no such run, no checkpoint in it, or `out` can't be written.
    """
    if count < 1:
        raise ValueError(f"--count {count}: must be at least 1")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be at least 0")
    generator, arch, progress, passed_over = newest_generator(run)
    pictures_BCHW = generate(generator, latents(seed, Stream.GENERATE, 0, count, arch.latent_dim))
    try:
        if out.suffix.lower() == ".png":
            out.parent.mkdir(parents=True, exist_ok=True)
            save_grid(pictures_BCHW, out)
        else:
            save_each(pictures_BCHW, out)
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error
    noun = "picture" if count == 1 else "pictures"
    return said(passed_over, f"{count:,} {noun} from step {progress.step:,} of {run}: {out}")


def newest_generator(run: Path) -> tuple[models.Generator, Architecture, Progress, list[str]]:
    """The generator of a run's newest whole checkpoint, on the GPU if there is one; and what was passed over for it.

    Raises:
        ValueError: if there is no such run, or no whole checkpoint in it.
    """
    folder = RunFolder(run)
    arch = read_config(folder).model.architecture()
    _refuse_too_large(folder, arch)
    generator, _ = models.build(arch, seed=0)
    newest, passed_over = checkpoint.newest(
        folder.checkpoints, partial(checkpoint.read_generator, generator=generator, arch=arch, run=run_id(folder))
    )
    if newest is None:
        raise ValueError(f"{run} has no checkpoint yet: nothing was learned that pictures could be made with")
    tensors, progress = newest
    generator.load_state_dict(tensors)
    if torch.cuda.is_available():
        generator.cuda()
    return generator, arch, progress, passed_over


def said(passed_over: Sequence[str], made: str) -> str:
    """What was made, after the checkpoints that were passed over for it, a line each."""
    return "\n".join([*(f"passed over: {line}" for line in passed_over), made])


def _refuse_too_large(folder: RunFolder, arch: Architecture) -> None:
    """Raises ValueError where config.json asks for a network of much memory, and more than was ever saved."""
    weights = sum(layer.in_channels * layer.out_channels * layer.kernel**2 for layer in arch.generator)
    held = sum(file.stat().st_size for file in folder.checkpoints.glob("*/*.safetensors") if file.is_file())
    if 4 * weights > max(held, MODEST):
        raise ValueError(
            f"{folder.path} has no checkpoint of the architecture in its config.json: of {weights:,} weights, "
            f"{held:,} bytes are there"
        )
