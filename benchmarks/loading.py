"""Sources of training batches as contenders: each decodes ahead in threads or processes of its own."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
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

    def time(self, steps: int) -> float:
        """See `Contender.time`."""
        for _ in range(self.stored):
            self._step()
        seconds = InProcess(self._step, self.finish).time(steps)
        time.sleep(self.refill_seconds)
        return seconds

    def _step(self) -> None:
        self.use(next(self.batches))


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
    endless = RandomSampler(pictures, num_samples=10**9)
    return DataLoader(pictures, batch, sampler=endless, num_workers=workers, drop_last=True)
