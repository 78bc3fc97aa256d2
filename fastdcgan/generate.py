"""New pictures from a finished or unfinished run."""

from pathlib import Path

import torch

from fastdcgan import models
from fastdcgan.architecture import Architecture
from fastdcgan.checkpoint import Progress, checkpoints, load_generator
from fastdcgan.randomness import Stream, latents
from fastdcgan.run_folder import RunFolder, read_config
from fastdcgan.sampling import generate, save_each, save_grid


def generate_from_run(run: Path, *, count: int, seed: int, out: Path) -> str:
    """Make `count` pictures with a run's newest checkpoint and say where they are.

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
    generator, arch, progress = newest_generator(run)
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
    return f"{count:,} {noun} from step {progress.step:,} of {run}: {out}"


def newest_generator(run: Path) -> tuple[models.Generator, Architecture, Progress]:
    """The generator of a run's newest checkpoint, on the GPU if there is one.

    Raises:
        ValueError: if there is no such run, or no checkpoint in it.
    """
    folder = RunFolder(run)
    arch = read_config(folder).model.architecture()
    saved = checkpoints(folder.checkpoints)
    if not saved:
        raise ValueError(f"{run} has no checkpoint yet: nothing was learned that pictures could be made with")
    _refuse_too_large(saved[-1], arch)
    generator, _ = models.build(arch, seed=0)
    progress = load_generator(saved[-1], generator, arch)
    if torch.cuda.is_available():
        generator.cuda()
    return generator, arch, progress


def _refuse_too_large(checkpoint: Path, arch: Architecture) -> None:
    """Raises ValueError where config.json asks for networks of more memory than was ever saved."""
    weights = sum(layer.in_channels * layer.out_channels * layer.kernel**2 for layer in arch.generator)
    held = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    if 4 * weights > held:
        raise ValueError(
            f"{checkpoint} is not of the architecture in config.json: {held:,} bytes for {weights:,} weights"
        )
