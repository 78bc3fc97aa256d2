"""Names for what a person thinks in, on a profiler's time line: `with named(GENERATOR): ...`.

PyTorch's own `record_function` takes microseconds whether or not a profiler listens. These ask first, and do nothing
(0.4 us) where none does. In a compiled graph there is nothing to name: the compiler moves and merges what is in it.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

DATA_WAIT = "data wait"
NOISE = "noise"
GENERATOR = "generator"
DISCRIMINATOR_REAL = "discriminator real"
DISCRIMINATOR_FAKE = "discriminator fake"
DISCRIMINATOR_BOTH = f"{DISCRIMINATOR_REAL} + {DISCRIMINATOR_FAKE}"
"""Both batches in one call."""

BACKWARD_D = "backward D"
OPTIMIZER_D = "optimizer D"
GENERATOR_LOSS = "generator loss"
"""D's opinion of the pictures while G learns."""

BACKWARD_G = "backward G"
OPTIMIZER_G = "optimizer G"
CAPTURED_STEP = "captured step"
"""The whole iteration, where it is one graph."""

ALL_REDUCE = "all-reduce"
METRICS = "metrics"
SAMPLES = "samples"
CHECKPOINT = "checkpoint"

ALL = (
    DATA_WAIT,
    NOISE,
    GENERATOR,
    DISCRIMINATOR_REAL,
    DISCRIMINATOR_FAKE,
    DISCRIMINATOR_BOTH,
    BACKWARD_D,
    OPTIMIZER_D,
    GENERATOR_LOSS,
    BACKWARD_G,
    OPTIMIZER_G,
    CAPTURED_STEP,
    ALL_REDUCE,
    METRICS,
    SAMPLES,
    CHECKPOINT,
)
"""In the order in which a step has them. `ALL_REDUCE` lies within others; no other range does."""

UPKEEP = (SAMPLES, CHECKPOINT)
"""What isn't part of a step, and off the run's clock."""

_NOTHING = nullcontext()


def named(name: str) -> AbstractContextManager[object]:
    """What is done in here carries a name on the time line."""
    if torch.compiler.is_compiling():  # asked first: nothing that may change is looked at, so nothing is guarded
        return nullcontext()
    return torch.profiler.record_function(name) if torch._C._autograd._profiler_enabled() else _NOTHING


def operator(name: str, tensors: list[Tensor]) -> AbstractContextManager[object]:
    """An operator that PyTorch doesn't know as one, with the shapes of what it reads and writes."""
    if not torch._C._autograd._profiler_enabled():
        return _NOTHING
    recorded: AbstractContextManager[object] = torch._C._profiler._RecordFunctionFast(name, tensors)
    return recorded
