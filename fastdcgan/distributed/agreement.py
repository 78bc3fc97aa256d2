"""What all ranks must agree on before the first step: the request, the code, the pictures, the checkpoint."""

import hashlib
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastdcgan.config import TrainConfig, flat
from fastdcgan.data.source import ImageSource
from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.distributed.collectives import gather_objects

OF_THE_MACHINE = ("threads", "data_threads", "data_cache", "data_memory")
"""Options that each machine may have its own way."""

PROBED = 64
"""Pictures that are compared."""

SAME_MEAN = 4.0
"""How far the mean levels of a picture may be apart, of 255, where two machines decode it: in truth by about 0.4."""


def check_same_request(accelerator: Accelerator, config: TrainConfig) -> None:
    """Every rank runs the same code on the same request.

    Raises:
        ValueError: naming the first rank that doesn't, and in what it differs from rank 0.
    """
    ours = {name: value for name, value in flat(config).items() if name not in OF_THE_MACHINE}
    said = gather_objects(accelerator, {**ours, "code": code_digest(), "torch": str(torch.__version__)})
    for rank, theirs in enumerate(said):
        if differing := differences(said[0], theirs):
            raise ValueError(f"rank {rank} was started differently from rank 0: {'; '.join(differing)}")


def check_same_pictures(accelerator: Accelerator, source: ImageSource) -> None:
    """Every rank sees the same pictures under the same numbers.

    Raises:
        ValueError: naming the first rank that doesn't, and in what it differs from rank 0.
    """
    if accelerator.num_processes == 1:
        return
    said = gather_objects(accelerator, (len(source), len(source.skipped), probe(source)))
    (count, skipped, means), *_ = said
    for rank, (their_count, their_skipped, their_means) in enumerate(said):
        if (count, skipped) != (their_count, their_skipped):
            raise ValueError(
                f"rank {rank} sees other pictures than rank 0: {their_count:,} usable and {their_skipped:,} skipped, "
                f"where rank 0 has {count:,} and {skipped:,}"
            )
        apart = [abs(a - b) for a, b in zip(means, their_means, strict=True)]
        if max(apart) > SAME_MEAN:
            number = probed(count)[apart.index(max(apart))]
            raise ValueError(f"rank {rank} sees other pictures than rank 0: their pictures number {number:,} differ")


def check_same_start(accelerator: Accelerator, step: int) -> None:
    """Every rank goes on from the same step. Raises ValueError if they see different checkpoints."""
    steps = gather_objects(accelerator, step)
    if len(set(steps)) > 1:
        raise ValueError(f"the processes see different checkpoints (steps {steps}): --out must be on a shared disk")


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """As `--lr 0.001 there, 0.0002 on rank 0`."""
    return [
        f"{name if name in ('code', 'torch') else '--' + name.replace('_', '-')} {theirs[name]}, rank 0 has {value}"
        for name, value in ours.items()
        if theirs[name] != value
    ]


def probed(count: int) -> list[int]:
    """Numbers of pictures spread over all of them."""
    return sorted({number * count // PROBED for number in range(PROBED)})


def probe(source: ImageSource) -> list[float]:
    """Mean levels of the probed pictures. Means, since decoders of two kinds round differently."""
    with closing(source.read([probed(len(source))])) as batches:
        return [float(mean) for pictures_BHWC in batches for mean in pictures_BHWC.float().mean((1, 2, 3))]


@cache
def code_digest() -> str:
    """Of this package's source."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for ending in ("py", "cpp", "hpp") for path in root.rglob(f"*.{ending}")):
        digest.update(b"%s\0%s\0" % (path.relative_to(root).as_posix().encode(), path.read_bytes()))
    return digest.hexdigest()[:12]
