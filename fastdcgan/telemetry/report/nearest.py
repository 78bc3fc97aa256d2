"""The training pictures that samples are nearest to: whether a generator repeats what it has seen.

Pictures are compared as bytes, reduced to about 32 pixels a side; their distance is the root of the mean squared
difference. A sample counts as a copy where its nearest training picture is less than a third as far as the second
nearest (Yoon et al. 2023, "Diffusion Probabilistic Models Generalize when They Fail to Memorize"). Of a set of much the
same pictures nothing counts as one by this rule, however near it is.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import normalise
from fastdcgan.runs.folder import RunFolder, converting_write_errors
from fastdcgan.runs.sampling import save_tiled
from fastdcgan.storage.files import read_json, write_replacing

MAX_PICTURES = 5000
"""Of a larger set nothing is compared: a DCGAN doesn't learn so many by heart."""

SHOWN = 8
"""Samples in the picture: those that are nearest to a training picture."""

COPY_RATIO = 1 / 3

_SIDE = 32
_BATCH = 64
_MAX_JSON_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """What `find_nearest` has found, but for the pictures."""

    step: int
    samples: int
    """How many were compared."""

    copies: int
    """How many of these count as copies."""

    pictures: int
    """Training pictures, each of those with the same pixels once."""

    mirrored: bool
    """Whether mirrored ones count as training pictures too."""

    distances: tuple[float, ...]
    """Of the samples that are shown to their nearest training pictures, on the scale of 0 to 255, the least first."""

    median: float
    """Of the distances of all samples."""


def write_nearest(folder: RunFolder, pictures_BCHW: Tensor, source: ImageSource, step: int, *, mirrored: bool) -> None:
    """Write nearest.png, samples above and training pictures below, and nearest.json of a run; of a large set nothing.

    Args:
        folder: of the run.
        pictures_BCHW: samples in [-1, 1], fp32, on the CPU.
        source: the training pictures.
        step: that the samples are of.
        mirrored: whether training mirrors pictures.

    Raises:
        WriteError: they can't be written.
        ValueError: the training pictures can't be read.
    """
    if len(source) > MAX_PICTURES:
        return
    found, shown_BCHW = find_nearest(pictures_BCHW, source, step, mirrored=mirrored)
    with converting_write_errors(folder.nearest):
        save_tiled(shown_BCHW, folder.nearest, columns=len(shown_BCHW) // 2)
        write_replacing(folder.nearest_record, json.dumps(asdict(found), indent=2) + "\n")


def read_nearest(folder: RunFolder) -> Nearest | None:
    """What was written. Raises ValueError or OSError where it can't be read; None where there is nothing."""
    if not folder.nearest_record.exists():
        return None
    record = read_json(folder.nearest_record, _MAX_JSON_BYTES)
    counts = ("step", "samples", "copies", "pictures")
    try:
        found = Nearest(**{**record, "distances": tuple(map(float, record["distances"]))[:SHOWN]})
        valid = all(type(getattr(found, name)) is int for name in counts) and type(found.median) in (int, float)
    except (TypeError, KeyError, ValueError):
        valid = False
    if not valid:
        raise ValueError("no record of nearest pictures")
    return found


def find_nearest(pictures_BCHW: Tensor, source: ImageSource, step: int, *, mirrored: bool) -> tuple[Nearest, Tensor]:
    """Compare samples with all training pictures.

    Args:
        pictures_BCHW: samples in [-1, 1], fp32, on the CPU.
        source: the training pictures.
        step: noted in the result.
        mirrored: whether each training picture counts mirrored too.

    Returns:
        what was found; and [2 N, C, H, W] in [-1, 1]: the N samples that are nearest, then their nearest pictures.

    Raises:
        ValueError: a training picture can't be read.
    """
    levels_BCHW = pictures_BCHW.clamp(-1, 1).add(1).mul(127.5)
    samples_ND = _reduced(levels_BCHW)
    distance_NP, numbers_P, flipped_NP = _distances(samples_ND, levels_BCHW, source, mirrored=mirrored)
    two_N2 = np.sort(distance_NP, axis=1)[:, :2]
    nearest_N = distance_NP.argmin(1)
    copies = int((two_N2[:, 0] < COPY_RATIO * two_N2[:, 1]).sum()) if two_N2.shape[1] > 1 else 0
    shown = np.argsort(two_N2[:, 0], kind="stable")[:SHOWN]
    numbers = [numbers_P[nearest_N[sample]] for sample in shown]
    (found_NHWC,) = source.read([numbers])
    found_NCHW = normalise(found_NHWC.cpu())
    for place, sample in enumerate(shown):
        if flipped_NP[sample, nearest_N[sample]]:
            found_NCHW[place] = found_NCHW[place].flip(-1)
    nearest = Nearest(
        step=step,
        samples=len(samples_ND),
        copies=copies,
        pictures=len(numbers_P),
        mirrored=mirrored,
        distances=tuple(round(float(two_N2[sample, 0]), 2) for sample in shown),
        median=round(float(np.median(two_N2[:, 0])), 2),
    )
    return nearest, torch.cat([pictures_BCHW[torch.from_numpy(shown)], found_NCHW])


def _distances(
    samples_ND: Tensor, levels_BCHW: Tensor, source: ImageSource, *, mirrored: bool
) -> tuple[NDArray[np.float32], list[int], NDArray[np.bool_]]:
    """From each sample to each training picture; the pictures' numbers, copies left out; whether mirrored is nearer."""
    asked = [samples_ND, _reduced(levels_BCHW.flip(-1))] if mirrored else [samples_ND]
    columns: list[Tensor] = []
    numbers: list[int] = []
    seen: set[bytes] = set()
    batches = [range(start, min(start + _BATCH, len(source))) for start in range(0, len(source), _BATCH)]
    for batch, pictures_BHWC in zip(batches, source.read(batches), strict=True):
        pictures_BHWC = pictures_BHWC.cpu()
        new = []
        for place, picture_HWC in enumerate(pictures_BHWC.numpy()):
            digest = hashlib.sha256(picture_HWC).digest()
            if digest not in seen:
                seen.add(digest)
                new.append(place)
        numbers += [batch[place] for place in new]
        training_MD = _reduced(pictures_BHWC[new].permute(0, 3, 1, 2).float())
        columns.append(torch.stack([torch.cdist(one_ND, training_MD) for one_ND in asked]))
    distance_2NP = torch.cat(columns, dim=2).numpy() / np.sqrt(samples_ND.shape[1])
    return distance_2NP.min(0), numbers, distance_2NP.argmin(0) > 0


def _reduced(levels_BCHW: Tensor) -> Tensor:
    """Of at least `_SIDE` pixels a side, where they have so many, as rows of numbers."""
    return avg_pool2d(levels_BCHW, max(1, min(levels_BCHW.shape[2:]) // _SIDE)).flatten(1)
