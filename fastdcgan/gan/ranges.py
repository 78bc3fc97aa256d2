"""Profiler ranges: the parts of a step by name on a profiler's timeline, as `with profiler_range(GENERATOR): ...`.

PyTorch's own `record_function` takes microseconds whether or not a profiler is active. These check first, and cost 0.4
us where none is. They do nothing while a graph is compiled: the compiler moves and merges the operators in it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from fastdcgan.private_torch import profiler_is_active, record_operator

DATA_WAIT = "data wait"
NOISE = "noise"
AUGMENTATION = "augmentation"
GENERATOR = "generator"
DISCRIMINATOR_REAL = "discriminator real"
DISCRIMINATOR_FAKE = "discriminator fake"
DISCRIMINATOR_BOTH = f"{DISCRIMINATOR_REAL} + {DISCRIMINATOR_FAKE}"
"""Both batches in one call."""

BACKWARD_D = "backward D"
OPTIMIZER_D = "optimizer D"
GENERATOR_LOSS = "generator loss"
"""D's forward pass on G's pictures while G learns, and G's loss."""

BACKWARD_G = "backward G"
OPTIMIZER_G = "optimizer G"
PENALTY = "gradient penalty"
CAPTURED_STEP = "captured step"
"""The whole iteration, where it is one graph."""

ALL_REDUCE = "all-reduce"
METRICS = "metrics"
SAMPLES = "samples"
CHECKPOINT = "checkpoint"

ALL_RANGES = (
    DATA_WAIT,
    NOISE,
    AUGMENTATION,
    GENERATOR,
    DISCRIMINATOR_REAL,
    DISCRIMINATOR_FAKE,
    DISCRIMINATOR_BOTH,
    BACKWARD_D,
    OPTIMIZER_D,
    GENERATOR_LOSS,
    BACKWARD_G,
    OPTIMIZER_G,
    PENALTY,
    CAPTURED_STEP,
    ALL_REDUCE,
    METRICS,
    SAMPLES,
    CHECKPOINT,
)
"""In the order of a step. `ALL_REDUCE` is nested in others; no other range is."""

OUTSIDE_STEP = (SAMPLES, CHECKPOINT)
"""Not part of a step, and not counted in the run's time."""

_NO_RANGE = nullcontext()
_reporting = threading.local()


def profiler_range(name: str) -> AbstractContextManager[object]:
    """A range of that name on the timeline, if a profiler is active."""
    if torch.compiler.is_compiling():  # first: what changes must not be read here, or the graph is guarded on it
        return nullcontext()
    if (names := getattr(_reporting, "to", None)) is not None:
        return _reported(name, names)
    return torch.profiler.record_function(name) if profiler_is_active() else _NO_RANGE


@contextmanager
def reported_to(names: list[str]) -> Iterator[None]:
    """In it the list holds the names of this thread's open ranges, the outermost first, profiler or not."""
    _reporting.to = names
    try:
        yield
    finally:
        _reporting.to = None


@contextmanager
def _reported(name: str, names: list[str]) -> Iterator[None]:
    names.append(name)
    with torch.profiler.record_function(name):
        yield
    names.pop()


def profiler_operator(name: str, arguments: Sequence[object]) -> AbstractContextManager[object]:
    """A range for an operator of our own, with the shapes of the tensors it is given, if a profiler is active."""
    if not profiler_is_active():
        return _NO_RANGE
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    recorded: AbstractContextManager[object] = record_operator(name, tensors)
    return recorded
