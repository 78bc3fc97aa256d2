"""What is timed: a training step of the reference, and of ours under a plan, each ready to be taken again and again.

Both are fed the same pictures and noise, which are made beforehand: the step alone, without data.
"""

from collections.abc import Callable

import torch

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.step import TrainState
from fastdcgan.kernels import winograd
from fastdcgan.tuning.implementations import plan_implementation, random_batch, reference_implementation

Step = Callable[[], object]


def reference_step(arch: Architecture, batch: int, device: torch.device) -> Step:
    """The reference's step: eager, contiguous, fp32."""
    reference = reference_implementation(arch, device)
    real_BCHW, z_BL = random_batch(arch, batch, device)
    return lambda: reference.step(real_BCHW, z_BL)


def our_state(arch: Architecture, plan: Plan, device: torch.device) -> TrainState:
    """Our networks and optimizers as the trainer prepares them."""
    return prepare(plan, *models.build(arch, seed=0), RecipeConfig(), device)


def our_step(arch: Architecture, batch: int, plan: Plan, device: torch.device) -> Step:
    """Our step under a plan, with pictures in the layout that the trainer's data comes in."""
    ours = plan_implementation(plan, arch, device)
    real_BCHW, z_BL = random_batch(arch, batch, device)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    real_BCHW = real_BCHW.contiguous(memory_format=layout)
    return lambda: ours.step(real_BCHW, z_BL)


def in_smallest_tiles(step: Step) -> Step:
    """The same step, with Winograd's smallest tiles in all layers."""

    def with_smallest_tiles() -> object:
        with winograd.smallest_tiles():
            return step()

    return with_smallest_tiles


def finisher(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done all the work it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
