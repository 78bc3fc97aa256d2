"""Checks before the first step that all ranks agree on the request, the code, the pictures and the checkpoint."""

import hashlib
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastdcgan.config import TrainConfig, flat
from fastdcgan.data.labels import Labels
from fastdcgan.data.source import ImageSource
from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.distributed.collectives import gather_objects

PER_MACHINE_OPTIONS = ("threads", "data_threads", "data_cache", "data_memory")
"""Options that may differ between machines."""

PROBE_COUNT = 64
"""How many pictures are compared."""

MEAN_TOLERANCE = 4.0
"""How much a picture's mean level, 0 to 255, may differ between two machines' decoders: in practice 0.4."""


def check_same_request(accelerator: Accelerator, config: TrainConfig) -> None:
    """Check that every rank runs the same code on the same request.

    Raises:
        ValueError: naming the first rank that doesn't, and in what it differs from rank 0.
    """
    ours = {name: value for name, value in flat(config).items() if name not in PER_MACHINE_OPTIONS}
    requests = gather_objects(accelerator, {**ours, "code": code_digest(), "torch": str(torch.__version__)})
    for rank, theirs in enumerate(requests):
        if differing := differing_options(requests[0], theirs):
            raise ValueError(f"rank {rank} was started differently from rank 0: {'; '.join(differing)}")


def check_same_pictures(accelerator: Accelerator, source: ImageSource) -> None:
    """Check that every rank has the same pictures in the same order.

    Raises:
        ValueError: naming the first rank that doesn't, and in what it differs from rank 0.
    """
    if accelerator.num_processes == 1:
        return
    sources = gather_objects(accelerator, (len(source), len(source.skipped), probe_means(source)))
    (count, skipped, means), *_ = sources
    for rank, (their_count, their_skipped, their_means) in enumerate(sources):
        if (count, skipped) != (their_count, their_skipped):
            raise ValueError(
                f"rank {rank} sees other pictures than rank 0: {their_count:,} usable and {their_skipped:,} skipped, "
                f"where rank 0 has {count:,} and {skipped:,}"
            )
        deviations = [abs(a - b) for a, b in zip(means, their_means, strict=True)]
        if max(deviations) > MEAN_TOLERANCE:
            number = probe_indices(count)[deviations.index(max(deviations))]
            raise ValueError(f"rank {rank} sees other pictures than rank 0: their pictures number {number:,} differ")


def check_same_labels(accelerator: Accelerator, labels: Labels) -> None:
    """Check that every rank takes each picture to be of the same class.

    Raises:
        ValueError: naming the first rank that doesn't.
    """
    first, *others = gather_objects(accelerator, labels.digest())
    for rank, theirs in enumerate(others, 1):
        if theirs != first:
            raise ValueError(f"rank {rank} sees other classes of the pictures than rank 0")


def check_same_start(accelerator: Accelerator, step: int) -> None:
    """Check that every rank resumes from the same step.

    Raises:
        ValueError: if they see different checkpoints.
    """
    steps = gather_objects(accelerator, step)
    if len(set(steps)) > 1:
        raise ValueError(f"the processes see different checkpoints (steps {steps}): --out must be on a shared disk")


def differing_options(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The options that differ, each as "--lr 0.001, rank 0 has 0.0002"."""
    return [
        f"{name if name in ('code', 'torch') else '--' + name.replace('_', '-')} {theirs[name]}, rank 0 has {value}"
        for name, value in ours.items()
        if theirs[name] != value
    ]


def probe_indices(count: int) -> list[int]:
    """Indices of up to `PROBE_COUNT` pictures, evenly spaced."""
    return sorted({number * count // PROBE_COUNT for number in range(PROBE_COUNT)})


def probe_means(source: ImageSource) -> list[float]:
    """Mean levels of the pictures at the probe indices. Not their pixels: decoders round differently."""
    with closing(source.read([probe_indices(len(source))])) as batches:
        return [float(mean) for pictures_BHWC in batches for mean in pictures_BHWC.float().mean((1, 2, 3))]


@cache
def code_digest() -> str:
    """SHA-256 of this package's Python and C++ source, 12 hex digits."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for ending in ("py", "cpp", "hpp") for path in root.rglob(f"*.{ending}")):
        digest.update(b"%s\0%s\0" % (path.relative_to(root).as_posix().encode(), path.read_bytes()))
    return digest.hexdigest()[:12]
