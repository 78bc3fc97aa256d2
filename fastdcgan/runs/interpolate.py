"""A walk through a generator's latent space: what lies between the pictures that it makes."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.animation import FORMATS, evenly, save_animation
from fastdcgan.runs.generate import newest_generator, said
from fastdcgan.runs.sampling import generate, grid, save_tiled

STOPS = 6
"""Latents that a walk passes through before it is back at its first."""

MOST_FRAMES = 600

MILLISECONDS = 80
"""Each frame is shown."""

SIDE = 640
"""Pixels: as many walks are shown beside each other as fit, 4 x 4 at most."""

STRIP = 9
"""Moments in the still."""

STRIP_ROWS = 4
"""Walks in the still, at most."""


def interpolate_from_run(run: Path, *, frames: int, seed: int, out: Path) -> str:
    """Walk through the latent space of a run's newest checkpoint in a loop, several walks at once; say where it is.

    The first frame shows the first pictures that `generate` makes from the same seed. Beside the animation comes a
    still: a walk a row.

    Args:
        run: the run's folder.
        frames: of the animation.
        seed: the latents are a function of this.
        out: ends in .webp or .gif.

    Raises:
        ValueError: if there is no such run, no checkpoint in it, or `out` can't be written.
    """
    if not 2 <= frames <= MOST_FRAMES:
        raise ValueError(f"--frames {frames}: must be at least 2 and at most {MOST_FRAMES}")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be at least 0")
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"--out {out}: must end in {' or '.join(FORMATS)}")
    generator, arch, progress, passed_over = newest_generator(run)
    walks = min(4, max(1, SIDE // arch.resolution)) ** 2
    stops_SBL = latents(seed, Stream.GENERATE, 0, STOPS * walks, arch.latent_dim).unflatten(0, (STOPS, walks))
    pictures_FBCHW = [generate(generator, z_BL) for z_BL in loop(stops_SBL, frames)]
    moments = evenly(range(frames), STRIP)
    still_BCHW = torch.stack([pictures_FBCHW[moment] for moment in moments], 1)[:STRIP_ROWS].flatten(0, 1)
    still = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_animation([to_pil_image(grid(pictures)) for pictures in pictures_FBCHW], out, MILLISECONDS)
        save_tiled(still_BCHW, still, columns=len(moments))
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error
    noun = "walk" if walks == 1 else "walks"
    made = f"{walks} {noun} in {frames} frames from step {progress.step:,} of {run}: {out}, and as a still {still}"
    return said(passed_over, made)


def loop(stops_SBL: Tensor, frames: int) -> list[Tensor]:
    """The latents z_BL of each frame of a walk through the stops [S, B, L] and back to the first.

    The first frame is the first stop; the step from the last frame to it is as long as any other.
    """
    stops = len(stops_SBL)
    places = [divmod(frame * stops / frames, 1) for frame in range(frames)]
    return [slerp(stops_SBL[int(stop)], stops_SBL[(int(stop) + 1) % stops], part) for stop, part in places]


def slerp(a_BL: Tensor, b_BL: Tensor, part: float) -> Tensor:
    """Spherical interpolation, row by row: `a` at part 0, `b` at part 1.

    A straight line between two latents passes nearer to zero than any latent that G was trained with: normal noise of
    many dimensions has about one length (White 2016, "Sampling Generative Networks"). An arc keeps to it.
    """
    cosine_B1 = torch.nn.functional.cosine_similarity(a_BL, b_BL, dim=1).clamp(-1, 1).unsqueeze(1)
    angle_B1 = torch.acos(cosine_B1)
    sine_B1 = torch.sin(angle_B1)
    arc_BL = (torch.sin((1 - part) * angle_B1) * a_BL + torch.sin(part * angle_B1) * b_BL) / sine_B1
    # Of one direction, or of opposite ones, as all latents of one dimension are: there is no arc to choose.
    return torch.where(sine_B1 < 1e-4, torch.lerp(a_BL, b_BL, part), arc_BL)
