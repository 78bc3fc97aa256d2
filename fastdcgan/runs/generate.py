"""New pictures from a finished or unfinished run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.runs.checkpoints.folder import checkpoint_path, list_checkpoints, read_newest, step_in_name
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder, read_config, run_id
from fastdcgan.runs.sampling import generate, save_each, save_grid

ALWAYS_BUILT_BYTES = 2**28
"""Networks of fewer bytes of weights are built whatever was saved: no machine runs out of memory for them."""


def generate_from_run(
    run: Path, *, count: int, seed: int, out: Path, raw: bool = False, step: int | None = None
) -> str:
    """Make `count` pictures with a run's newest usable checkpoint, and write them.

    Args:
        run: the run's folder.
        count: how many, at least 1.
        seed: of the noise, at least 0. The first pictures don't depend on `count`.
        out: `*.png` for one grid, anything else for a folder of PNGs.
        raw: as in `load_generator`.
        step: as in `load_generator`.

    Returns:
        lines for the user: where the pictures are, after the newer checkpoints that were skipped.

    Raises:
        ValueError: a number is out of range, there is no such run or checkpoint, or `out` can't be written.
    """
    if count < 1:
        raise ValueError(f"--count {count}: must be at least 1")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be at least 0")
    generator, arch, progress, skipped = load_generator(run, raw=raw, step=step)
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
    return with_skipped(skipped, f"{count:,} {noun} from step {progress.step:,} of {run}: {out}")


def load_generator(
    run: Path, *, raw: bool = False, step: int | None = None
) -> tuple[models.Generator, Architecture, Progress, list[str]]:
    """What a run makes pictures with, from its newest usable checkpoint, on the GPU if there is one.

    Args:
        run: the run's folder.
        raw: the generator itself, although there is a moving average of it.
        step: of the checkpoint; None: the newest usable one.

    Returns:
        the generator, its architecture, the checkpoint's progress, and why newer checkpoints were skipped, a line each.

    Raises:
        ValueError: there is no such run, or no usable checkpoint in it, or none of this step.
    """
    folder = RunFolder(run)
    arch = read_config(folder).model.architecture()
    refuse_too_large(folder, arch)
    generator, _ = models.build(arch, seed=0)
    read = partial(checkpoint.read_generator, generator=generator, arch=arch, run=run_id(folder), raw=raw)
    if step is not None:
        tensors, progress = read(_existing_checkpoint(folder, step))
        skipped: list[str] = []
    else:
        newest, skipped = read_newest(folder.checkpoints, read)
        if newest is None:
            raise ValueError(f"{run} has no checkpoint yet: nothing was learned that pictures could be made with")
        tensors, progress = newest
    generator.load_state_dict(tensors)
    if torch.cuda.is_available():
        generator.cuda()
    return generator, arch, progress, skipped


def _existing_checkpoint(folder: RunFolder, step: int) -> Path:
    """Raises ValueError, naming those that there are."""
    path = checkpoint_path(folder.checkpoints, step)
    if not path.is_dir():
        there = ", ".join(str(step_in_name(saved)) for saved in list_checkpoints(folder.checkpoints))
        raise ValueError(f"--checkpoint {step}: {folder.path} has no checkpoint of this step, but of {there or 'none'}")
    return path


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
