"""Sources of training batches as contenders: each decodes ahead in threads or processes of its own."""

import signal
import time
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.measure import InProcess


@dataclass
class Stream:
    """An endless stream of batches, and what is done with each, as a contender (see `measure.Contender`).

    What decodes ahead is still at work when a turn ends, and has batches in store when the next begins. So a turn
    first takes, untimed, what may be in store, and at its end waits until the store is full again: the turn has the
    stream as it is in the long run, and the other's turn isn't disturbed.

    Args:
        batches: the stream.
        use: is given each batch.
        stored: batches taken before the clock starts.
        refill_seconds: how long the store takes to fill.
        finish: waits until all the work given to the device is done.
    """

    batches: Iterator[Tensor]
    use: Callable[[Tensor], object]
    stored: int
    refill_seconds: float
    finish: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter

    waiting: list[float] = field(default_factory=list, init=False)
    """Of each turn, the share of its time that passed until batches were there."""

    _waited: float = field(default=0.0, init=False)

    def time(self, steps: int) -> float:
        """See `Contender.time`."""
        for _ in range(self.stored):
            self._step()
        self._waited = 0.0
        seconds = InProcess(self._step, self.finish, self.clock).time(steps)
        self.waiting.append(self._waited / seconds)
        time.sleep(self.refill_seconds)
        return seconds

    def _step(self) -> None:
        start = self.clock()
        batch = next(self.batches)
        self._waited += self.clock() - start
        self.use(batch)


def torchvision_batches(folder: Path, resolution: int, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """The common tutorial's data: ImageFolder and a DataLoader, over and over in random order.

    Its workers stay, as with `persistent_workers`: they'd pause between epochs, which a folder this small has too many
    of, so that one epoch goes on for ever.
    """
    transform = transforms.Compose(
        [
            transforms.Resize(resolution),
            transforms.CenterCrop(resolution),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ]
    )
    pictures = ImageFolder(folder, transform)
    return DataLoader(
        pictures,
        batch,
        sampler=_endless(pictures),
        num_workers=workers,
        drop_last=True,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )


def _leave_interrupts_to_the_parent(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class MappedPictures(Dataset[Tensor]):
    """What people write who have their pictures in one array: a picture is copied, and may be made fp32.

    Args:
        pictures_NHWC: uint8.
        normalised: as fp32 [C, H, W] in [-1, 1], else as the uint8 [H, W, C] that it is.
    """

    def __init__(self, pictures_NHWC: NDArray[np.uint8], *, normalised: bool) -> None:
        self._pictures_NHWC = pictures_NHWC
        scaled = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))])
        self._transform: Callable[[NDArray[np.uint8]], Tensor] = scaled if normalised else torch.from_numpy

    def __len__(self) -> int:
        return len(self._pictures_NHWC)

    def __getitem__(self, number: int) -> Tensor:
        return self._transform(np.array(self._pictures_NHWC[number]))


def array_batches(pictures_NHWC: NDArray[np.uint8], batch: int, *, normalised: bool) -> DataLoader[Tensor]:
    """A DataLoader over an array in this very thread, over and over in random order."""
    pictures = MappedPictures(pictures_NHWC, normalised=normalised)
    return DataLoader(pictures, batch, sampler=_endless(pictures), drop_last=True)


def _endless(pictures: Dataset[Any]) -> RandomSampler:
    return RandomSampler(cast(Sized, pictures), num_samples=10**9)
