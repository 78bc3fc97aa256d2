"""An endless stream of training batches on the device, from a source of pictures."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdcgan.data.array import DeviceSource
from fastdcgan.data.order import batch_numbers, flip_mask
from fastdcgan.data.source import ImageSource
from fastdcgan.device import to_device

_CHUNK = 32_000
"""Values scaled at a time on the CPU: too few for PyTorch to divide among threads. A decoder that works on the next
batch keeps the cores busy, and each operation would wait for its slowest thread."""

Recorder = Callable[[Callable[..., Tensor], Sequence[Tensor | None]], Callable[..., Tensor]]
"""(function, inputs of the shapes of all its calls) to the function, as one launch (`execution/replay.py`)."""


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How a rank's batches are taken from the data."""

    seed: int
    global_batch: int
    rank: int = 0
    world_size: int = 1
    parts: int = 1
    """In which a batch is accumulated."""

    flip: bool = False
    """Mirror each picture with probability 1/2."""


def real_batches(
    source: ImageSource,
    batching: Batching,
    device: torch.device,
    start_step: int = 0,
    record: Recorder | None = None,
) -> Generator[Tensor]:
    """Yield this rank's share of each batch from `start_step` (counted from 0) on, endlessly.

    Pictures are copied to the device as uint8, a quarter of the bytes, and mirrored and scaled there.

    Args:
        source: of the pictures.
        batching: which are taken.
        device: where they are needed.
        start_step: see above.
        record: makes batches of pictures that are kept on the device one launch each; the next overwrites the last.

    Yields:
        real_BCHW in [-1, 1], fp32, channels-last.
    """
    numbers = _numbers(len(source), batching, start_step)
    if record and isinstance(source, DeviceSource):
        yield from _recorded_batches(source.pictures_NHWC, numbers, batching, start_step, record)
        return
    # Closed with this generator, so that a run that ends leaves no decoder running.
    with closing(source.read(numbers)) as pictures:
        for step, pictures_BHWC in enumerate(pictures, start_step):
            pictures_BHWC = to_device(pictures_BHWC, device)
            if batching.flip:
                numbers_M = torch.from_numpy(np.flatnonzero(_mirrored(batching, step)))
                pictures_BHWC = mirror(pictures_BHWC, to_device(numbers_M, device))
            yield normalise(pictures_BHWC)


def _recorded_batches(
    pictures_NHWC: Tensor, numbers: Iterator[list[int]], batching: Batching, start_step: int, record: Recorder
) -> Generator[Tensor]:
    """`real_batches`, of pictures on the device."""

    def gather(numbers_B: Tensor, mirrored_B: Tensor | None) -> Tensor:
        pictures_BHWC = pictures_NHWC.index_select(0, numbers_B)
        if mirrored_B is not None:  # by a mask: the shapes of a graph don't depend on numbers
            pictures_BHWC = torch.where(mirrored_B[:, None, None, None], pictures_BHWC.flip(2), pictures_BHWC)
        return normalise(pictures_BHWC)

    gathered, device = None, pictures_NHWC.device
    for step, numbers_of_step in enumerate(numbers, start_step):
        numbers_B = to_device(torch.as_tensor(numbers_of_step, dtype=torch.long), device)
        mirrored_B = to_device(torch.from_numpy(_mirrored(batching, step)), device) if batching.flip else None
        gathered = gathered or record(gather, (numbers_B, mirrored_B))
        yield gathered(numbers_B, mirrored_B)


def _mirrored(batching: Batching, step: int) -> NDArray[np.bool_]:
    b = batching
    return flip_mask(
        seed=b.seed, step=step, global_batch=b.global_batch, rank=b.rank, world_size=b.world_size, parts=b.parts
    )


def label_batches(
    labels_N: NDArray[np.integer], batching: Batching, device: torch.device, start_step: int = 0
) -> Iterator[Tensor]:
    """Yield the classes of the pictures that `real_batches` yields from the same step on: int64 [B], on the device.

    They are looked up by the pictures' numbers, as a function of the step: no reader of pictures has to carry them.

    Args:
        labels_N: of all pictures (`Labels.numbers`).
        batching: as there.
        device: likewise.
        start_step: likewise.
    """
    for numbers in _numbers(len(labels_N), batching, start_step):
        yield to_device(torch.from_numpy(labels_N[numbers].astype(np.int64)), device)


def _numbers(count: int, batching: Batching, start_step: int) -> Iterator[list[int]]:
    b = batching
    return batch_numbers(
        seed=b.seed,
        count=count,
        global_batch=b.global_batch,
        rank=b.rank,
        world_size=b.world_size,
        parts=b.parts,
        start_step=start_step,
    )


def mirror(pictures_BHWC: Tensor, numbers_M: Tensor) -> Tensor:
    """Mirror the pictures at the positions `numbers_M` (int64) of a batch left to right."""
    # Three times as fast as torch.where by a mask: only the pictures that change are copied, and as a whole.
    if pictures_BHWC.device.type == "cpu":
        return torch.from_numpy(_mirror_in_this_thread(pictures_BHWC.numpy(), numbers_M.numpy()))
    return pictures_BHWC.index_copy(0, numbers_M, pictures_BHWC.index_select(0, numbers_M).flip(2))


def _mirror_in_this_thread(pictures_BHWC: NDArray[np.uint8], numbers_M: NDArray[np.int64]) -> NDArray[np.uint8]:
    """`mirror` without PyTorch's threads, as they would wait for each other where cores are busy."""
    batch, height, width, channels = pictures_BHWC.shape
    rows = (batch, height, width * channels)
    from_right_to_left = np.arange(width * channels).reshape(width, channels)[::-1].ravel()
    mirrored_BHWC = pictures_BHWC.copy()  # C order: the rows below are a view of it
    # By an index, NumPy copies bytes three times as fast as from a view with its pixels reversed.
    mirrored_BHWC.reshape(rows)[numbers_M] = pictures_BHWC.reshape(rows)[numbers_M].take(from_right_to_left, axis=2)
    return mirrored_BHWC


def normalise(pictures_BHWC: Tensor) -> Tensor:
    """uint8 [B, H, W, C] in 0..255 to fp32 [B, C, H, W] in [-1, 1], channels-last (a permuted view, no copy)."""
    scaled_BHWC = torch.empty(pictures_BHWC.shape, dtype=torch.float32, device=pictures_BHWC.device)
    values, scaled = pictures_BHWC.reshape(-1), scaled_BHWC.view(-1)
    chunk = _CHUNK if pictures_BHWC.device.type == "cpu" else max(1, values.numel())
    for part, scaled_part in zip(values.split(chunk), scaled.split(chunk), strict=True):
        scaled_part.copy_(part).div_(127.5).sub_(1.0)
    return scaled_BHWC.permute(0, 3, 1, 2)
