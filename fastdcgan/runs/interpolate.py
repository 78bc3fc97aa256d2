"""Interpolation in a generator's latent space, as an animation and a still."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, latents
from fastdcgan.runs.animation import (
    FORMATS,
    VIDEO,
    check_video_can_be_written,
    evenly_spaced,
    save_animation,
    save_video,
)
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.classes import class_numbers, labels_in_turn
from fastdcgan.runs.generate import load_generator, with_skipped
from fastdcgan.runs.sampling import generate, grid, save_tiled

WAYPOINTS = 6
"""Latents that a path passes through before it is back at its first."""

MAX_FRAMES = 600

FRAME_MS = 80
"""How long each frame is shown."""

TIMES_IN_A_VIDEO = 2
"""How often a video shows a walk: few players repeat it by themselves."""

MAX_SIDE = 640
"""Pixels of the animation: as many paths are shown beside each other as fit, 4 x 4 at most."""

STILL_COLUMNS = 9
"""Frames of a path in the still."""

MAX_STILL_ROWS = 4
"""Paths in the still."""


def interpolate_from_run(
    run: Path, *, frames: int, seed: int, out: Path, checkpoint: Named = "latest", classes: Sequence[str] = ()
) -> str:
    """Animate closed paths through the latent space of a run's checkpoint, several at once.

    The first frame shows the first pictures that `generate` makes from the same seed. A still is written beside the
    animation, as `out` with the suffix .png: a row per path.

    Args:
        run: the run's folder.
        frames: of the animation, 2 to MAX_FRAMES.
        seed: of the latents, at least 0.
        out: ends in .webp, .gif or .mp4.
        checkpoint: as in `load_generator`.
        classes: names of those that the paths are of, in turn, each of one. None: of all that were learned.

    Returns:
        lines for the user: where the files are, after the newer checkpoints that were skipped.

    Raises:
        ValueError: a number is out of range, there is no such run, checkpoint or class, or `out` can't be written.
    """
    if not 2 <= frames <= MAX_FRAMES:
        raise ValueError(f"--frames {frames}: must be at least 2 and at most {MAX_FRAMES}")
    if seed < 0:
        raise ValueError(f"--seed {seed}: must be at least 0")
    kind = out.suffix.lower()
    if kind not in (*FORMATS, VIDEO):
        raise ValueError(f"--out {out}: must end in {', '.join(FORMATS)} or {VIDEO}")
    if kind == VIDEO:
        check_video_can_be_written()
    generator, arch, progress, skipped = load_generator(run, checkpoint=checkpoint)
    waypoints_WBL = waypoints(arch, seed)
    paths = waypoints_WBL.shape[1]
    labels_B = labels_in_turn(class_numbers(classes, arch), paths)
    pictures_FBCHW = [generate(generator, z_BL, labels_B) for z_BL in closed_path(waypoints_WBL, frames)]
    columns = evenly_spaced(range(frames), STILL_COLUMNS)
    still_BCHW = torch.stack([pictures_FBCHW[frame] for frame in columns], 1)[:MAX_STILL_ROWS].flatten(0, 1)
    still = out.with_suffix(".png")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = [to_pil_image(grid(pictures)) for pictures in pictures_FBCHW]
        if kind == VIDEO:
            save_video(shown, out, FRAME_MS, times=TIMES_IN_A_VIDEO)
        else:
            save_animation(shown, out, FRAME_MS)
        save_tiled(still_BCHW, still, columns=len(columns))
    except OSError as error:
        raise ValueError(f"can't write to {out}: {error.strerror or error}") from error
    noun = "walk" if paths == 1 else "walks"
    message = f"{paths} {noun} in {frames} frames from step {progress.step:,} of {run}: {out}, and as a still {still}"
    return with_skipped(skipped, message)


def waypoints(arch: Architecture, seed: int) -> Tensor:
    """The latents [W, B, L] that walks pass through, of as many walks as are shown beside each other."""
    paths = min(4, max(1, MAX_SIDE // max(arch.resolution))) ** 2
    return latents(seed, Stream.GENERATE, 0, WAYPOINTS * paths, arch.latent_dim).view(WAYPOINTS, paths, -1)


def closed_path(waypoints_WBL: Tensor, frames: int) -> list[Tensor]:
    """The latents z_BL of each frame of paths through the waypoints [W, B, L] and back to the first.

    The first frame is the first waypoint; the step from the last frame to it is as long as any other.
    """
    count = len(waypoints_WBL)
    positions = [divmod(frame * count / frames, 1) for frame in range(frames)]
    return [slerp(waypoints_WBL[int(w)], waypoints_WBL[(int(w) + 1) % count], part) for w, part in positions]


def slerp(a_BL: Tensor, b_BL: Tensor, part: float) -> Tensor:
    """Spherical interpolation, row by row: `a` at part 0, `b` at part 1.

    A straight line between two latents passes nearer to zero than any latent that G was trained with: Gaussian noise of
    many dimensions has nearly constant norm (White 2016, "Sampling Generative Networks"), which an arc keeps.
    """
    cosine_B1 = torch.nn.functional.cosine_similarity(a_BL, b_BL, dim=1).clamp(-1, 1).unsqueeze(1)
    angle_B1 = torch.acos(cosine_B1)
    sine_B1 = torch.sin(angle_B1)
    arc_BL = (torch.sin((1 - part) * angle_B1) * a_BL + torch.sin(part * angle_B1) * b_BL) / sine_B1
    # Parallel or opposite latents, as all of one dimension are, have no unique arc.
    return torch.where(sine_B1 < 1e-4, torch.lerp(a_BL, b_BL, part), arc_BL)
