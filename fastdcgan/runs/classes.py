"""Which classes pictures are made of, where a run has learned some."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream, rng
from fastdcgan.runs.folder import RunFolder, read_condition
from fastdcgan.storage.printable import printable

CLASS_COUNTS = "class_counts"
"""The condition that says how many training pictures each class has; None where none were learned."""

MOST_ROWS = 16
"""Classes in a sample grid, which has a row for each."""

MOST_NAMED = 20


def class_numbers(names: Sequence[str], arch: Architecture) -> tuple[int, ...]:
    """The numbers of classes; of all, where none are named; () for a generator without classes.

    Raises:
        ValueError: it has not learned a class of this name.
    """
    places = {name: place for place, name in enumerate(arch.classes)}
    for name in names:
        if not places:
            raise ValueError(f"--class {printable(name)}: no classes were learned: train with --conditional")
        if name not in places:
            known = [printable(known) for known in arch.classes[:MOST_NAMED]]
            more = [f"and {len(places) - MOST_NAMED:,} more"] if len(places) > MOST_NAMED else []
            raise ValueError(f"--class {printable(name)}: must be one of {', '.join(known + more)}")
    return tuple(places[name] for name in names) or tuple(places.values())


def labels_in_turn(classes: Sequence[int], count: int, start: int = 0) -> Tensor | None:
    """labels_B, int64, of `count` pictures from number `start` on, of these classes in turn; of none: None."""
    return torch.tensor(classes)[torch.arange(start, start + count) % len(classes)] if classes else None


def labels_by_balance(counts: Sequence[int], count: int, seed: int, position: int) -> Tensor | None:
    """labels_N, int64, drawn as often as each class is among the training pictures; of no classes: None."""
    if not counts:
        return None
    # Beside the noise of the same evaluation.
    drawn_N = rng(seed, Stream.EVALUATE, (1 << 32) + position).choice(
        len(counts), count, p=np.divide(counts, sum(counts))
    )
    return torch.from_numpy(drawn_N)


def classes_shown(counts: Sequence[int]) -> list[int]:
    """The numbers of the classes in a sample grid, in their order: all, or the most frequent ones."""
    return sorted(sorted(range(len(counts)), key=lambda number: -counts[number])[:MOST_ROWS])


def read_class_counts(folder: RunFolder, arch: Architecture) -> list[int]:
    """How many training pictures each class of a run has; 1 each where that is not known; [] without classes."""
    found = read_condition(folder, CLASS_COUNTS)
    known = isinstance(found, list) and all(type(count) is int and count > 0 for count in found)
    return found if known and len(found) == len(arch.classes) else [1] * len(arch.classes)  # type: ignore[arg-type,return-value]
