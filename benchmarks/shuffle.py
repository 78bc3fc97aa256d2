"""How good is the shuffle? `python -m benchmarks.shuffle` computes it for our order and for what other loaders do.

An epoch's order is compared with the order of storage, and with the epoch before: does one foretell the other? Three
statistics say so, and for a uniform shuffle their expectation and standard error are known.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import tyro
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from fastdcgan.data.order import batch_numbers, steps_per_epoch

GLOBAL_BATCH = 100
"""Of our order. It makes no difference, but that what does not fill a batch is left out of an epoch."""

Order = NDArray[np.int64]
"""All pictures' numbers once, in the order in which an epoch shows them. Stored they are in the order of numbers."""

Shuffle = Callable[[int, int], Iterator[Order]]
"""From a number of pictures and a seed to one epoch after the other."""


# --- Statistics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statistic:
    """What is computed of `moved`: at j the new place of what was at place j of another order."""

    name: str
    of: Callable[[Order], float]
    expected: Callable[[int], float]
    """For a uniform shuffle of this many."""

    error: Callable[[int], float]
    """Standard error for a uniform shuffle of this many."""


def correlation(moved: Order) -> float:
    """Pearson's, of old place and new: 1 where nothing moved."""
    return float(np.corrcoef(np.arange(len(moved)), moved)[0, 1])


def neighbours(moved: Order) -> float:
    """How far apart they are now who were next to each other: the mean, as a share of the epoch."""
    return float(np.abs(np.diff(moved)).mean() / len(moved))


def deciles(moved: Order) -> float:
    """Chi-square, divided by its 81 degrees of freedom, of new tenth given old tenth."""
    count = len(moved)
    old, new = np.arange(count) * 10 // count, moved * 10 // count
    seen = np.bincount(10 * old + new, minlength=100)
    expected = np.outer(np.bincount(old), np.bincount(new)).ravel() / count
    return float(((seen - expected) ** 2 / expected).sum() / 81)


STATISTICS = (
    Statistic("correlation", correlation, lambda count: 0.0, lambda count: (count - 1) ** -0.5),
    # Of |a - b| / N for random places a, b, what a alone or b alone explains cancels along the chain of neighbours.
    # A variance of 2/45 is left for each pair.
    Statistic(
        "neighbours' distance",
        neighbours,
        lambda count: (count + 1) / (3 * count),
        lambda count: (2 / 45 / (count - 1)) ** 0.5,
    ),
    Statistic("chi-square / 81", deciles, lambda count: count / (count - 1), lambda count: (2 / 81) ** 0.5),
)


@dataclass(frozen=True)
class Found:
    """A statistic's mean over epochs, and how many standard errors that is from a uniform shuffle's."""

    mean: float
    errors: float


def examine(shuffle: Shuffle, count: int, epochs: int, seeds: int) -> dict[str, tuple[Found, ...]]:
    """STATISTICS against "storage" and against "the epoch before"."""
    moves: dict[str, list[Order]] = {"storage": [], "the epoch before": []}
    for seed in range(seeds):
        before: Order | None = None
        for _, order in zip(range(epochs), shuffle(count, seed), strict=False):
            place = np.empty(count, np.int64)
            place[order] = np.arange(count)
            moves["storage"].append(place)
            if before is not None:
                moves["the epoch before"].append(place[before])
            before = order
    return {name: tuple(_found(statistic, moved) for statistic in STATISTICS) for name, moved in moves.items()}


def _found(statistic: Statistic, moves: list[Order]) -> Found:
    count = len(moves[0])
    mean = float(np.mean([statistic.of(moved) for moved in moves]))
    return Found(mean, (mean - statistic.expected(count)) / (statistic.error(count) / len(moves) ** 0.5))


# --- Shuffles ---------------------------------------------------------------------------------------------------------


def ours(count: int, seed: int, world_size: int = 1) -> Iterator[Order]:
    """What all ranks together are given, step by step."""
    assert count % GLOBAL_BATCH == 0, count
    ranks = [
        batch_numbers(seed=seed, count=count, global_batch=GLOBAL_BATCH, rank=rank, world_size=world_size, start_step=0)
        for rank in range(world_size)
    ]
    while True:
        steps = range(steps_per_epoch(count, GLOBAL_BATCH))
        yield np.concatenate([next(rank) for _ in steps for rank in ranks])


def dali_reader(count: int, seed: int, initial_fill: int = 1024) -> Iterator[Order]:
    """As `fn.readers.file(random_shuffle=True)`: the files are shuffled once, and each epoch goes through a buffer.

    From the buffer a random picture is taken and the next one read into its place; an epoch's last pictures leave it
    empty.
    """
    rng = np.random.default_rng(seed)
    once = rng.permutation(count)
    while True:
        draws, passed = rng.random(count).tolist(), []
        buffer = list(range(min(initial_fill, count)))
        for step, draw in enumerate(draws):
            drawn = int(draw * len(buffer))
            passed.append(buffer[drawn])
            if step + initial_fill < count:
                buffer[drawn] = step + initial_fill
            else:
                buffer[drawn] = buffer[-1]
                buffer.pop()
        yield once[passed]


def webdataset(
    count: int, seed: int, shard: int = 1000, buffer_size: int = 1000, initial: int = 100
) -> Iterator[Order]:
    """As `WebDataset(shards, shardshuffle=True).shuffle(buffer_size)` with one reader.

    The shards are shuffled each epoch and read one after the other into a buffer. It gives out from `initial` pictures
    on, and while it is not full takes in two for each that it gives out.
    """
    rng = random.Random(seed)
    while True:
        firsts = list(range(0, count, shard))
        rng.shuffle(firsts)
        read = (number for first in firsts for number in range(first, min(first + shard, count)))
        buffer: list[int] = []
        order: list[int] = []

        def give_out(buffer: list[int] = buffer, order: list[int] = order) -> None:
            drawn = rng.randrange(len(buffer))
            order.append(buffer[drawn])
            buffer[drawn] = buffer[-1]
            buffer.pop()

        for number in read:
            buffer.append(number)
            if len(buffer) < buffer_size and (one_more := next(read, None)) is not None:
                buffer.append(one_more)
            if len(buffer) >= min(initial, buffer_size):
                give_out()
        while buffer:
            give_out()
        yield np.array(order)


SHUFFLES: dict[str, Shuffle] = {
    "fastdcgan": ours,
    "DALI's file reader, buffer of 1,024": dali_reader,
    "WebDataset, shards of 1,000, buffer of 1,000": webdataset,
    "WebDataset, shards of 1,000, buffer of 5,000": partial(webdataset, buffer_size=5000),
    "WebDataset, shards of 10,000, buffer of 5,000": partial(webdataset, shard=10_000, buffer_size=5000),
}


def same_for_ranks(count: int, seed: int, epochs: int, world_size: int) -> bool:
    """Whether so many ranks of ours, taken together, see what one sees alone."""
    alone, together = ours(count, seed), ours(count, seed, world_size)
    return all(np.array_equal(next(alone), next(together)) for _ in range(epochs))


# --- The table --------------------------------------------------------------------------------------------------------


def main(
    pictures: Annotated[int, tyro.conf.arg(metavar="N")] = 100_000,
    epochs: Annotated[int, tyro.conf.arg(metavar="N")] = 4,
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 3,
) -> None:
    """Print how far from uniform training orders are.

    Args:
        pictures: how many there are; a multiple of 100.
        epochs: of each seed; at least 2.
        seeds: how many.
    """
    if pictures < 1000 or pictures % GLOBAL_BATCH:
        raise ValueError(f"--pictures {pictures}: must be a multiple of {GLOBAL_BATCH}, and at least 1,000")
    if epochs < 2 or seeds < 1:
        raise ValueError(f"--epochs {epochs} --seeds {seeds}: it takes two epochs of one seed")
    console = Console(highlight=False)
    table = Table(
        title=f"{pictures:,} pictures, means over {epochs} epochs of each of {seeds} seeds; "
        "in brackets: standard errors from uniform"
    )
    table.add_column("order")
    table.add_column("against")
    for statistic in STATISTICS:
        table.add_column(statistic.name, justify="right")
    table.add_row(
        "uniform: expected", "", *(f"{statistic.expected(pictures):.4f}" for statistic in STATISTICS), end_section=True
    )
    with console.status("") as status:
        for name, shuffle in SHUFFLES.items():
            status.update(name)
            for against, found in examine(shuffle, pictures, epochs, seeds).items():
                cells = (f"{each.mean:,.4f} ({each.errors:+,.1f})" for each in found)
                first = against == "storage"
                table.add_row(name if first else "", against, *cells, end_section=not first)
    console.print(table)
    for world_size in (2, 4):
        same = all(same_for_ranks(pictures, seed, epochs, world_size) for seed in range(seeds))
        console.print(f"{world_size} ranks of fastdcgan together see {'exactly' if same else 'NOT'} what one sees.")


if __name__ == "__main__":
    try:
        tyro.cli(main, prog="python -m benchmarks.shuffle")
    except ValueError as problem:
        print(f"benchmarks.shuffle: error: {problem}", file=sys.stderr)
        sys.exit(2)
