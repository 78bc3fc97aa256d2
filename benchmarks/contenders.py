"""What is timed: a training step of the reference, and of ours under a plan, each ready to be taken again and again.

Both start from weights of the same distribution and are fed the same pictures and noise, which are made beforehand:
the step alone, without data.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fastdcgan import models, reference
from fastdcgan.architecture import Architecture
from fastdcgan.capture import step_function
from fastdcgan.config import RecipeConfig
from fastdcgan.plan import Plan, prepare
from fastdcgan.step import TrainState

Step = Callable[[], object]


def inputs(arch: Architecture, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pictures real_BCHW, contiguous, and noise z_BL: the same for all contenders."""
    rng = torch.Generator().manual_seed(0)
    real_BCHW = torch.rand(batch, arch.channels, arch.resolution, arch.resolution, generator=rng) * 2 - 1
    return real_BCHW.to(device), torch.randn(batch, arch.latent_dim, generator=rng).to(device)


def reference_layers(arch: Architecture) -> tuple[list[reference.Layer], list[reference.Layer]]:
    """The reference's own tables for an architecture, not ours."""
    if arch.name == "dcgan28":
        return reference.layers_28()
    if arch.name == "dcgan64":
        return reference.layers_64(arch.channels, arch.width, arch.latent_dim)
    return reference.layers_power_of_two(arch.resolution, arch.channels, arch.width, arch.latent_dim)


def reference_networks(arch: Architecture) -> tuple[reference.Generator, reference.Discriminator]:
    """Freshly initialised, on the CPU."""
    generator_layers, discriminator_layers = reference_layers(arch)
    torch.manual_seed(0)
    G, D = reference.Generator(generator_layers), reference.Discriminator(discriminator_layers)
    reference.initialise(G)
    reference.initialise(D)
    return G, D


def reference_step(arch: Architecture, batch: int, device: torch.device) -> Step:
    """The reference's step: eager, contiguous, fp32."""
    G, D = reference_networks(arch)
    G.to(device)
    D.to(device)
    optimizer_g, optimizer_d = reference.adam(G), reference.adam(D)
    real_BCHW, z_BL = inputs(arch, batch, device)
    return lambda: reference.train_step(G, D, optimizer_g, optimizer_d, real_BCHW, z_BL)


def our_state(arch: Architecture, plan: Plan, device: torch.device) -> TrainState:
    """Our networks and optimizers as the trainer prepares them."""
    return prepare(plan, *models.build(arch, seed=0), RecipeConfig(), device)


def our_step(arch: Architecture, batch: int, plan: Plan, device: torch.device) -> Step:
    """Our step under a plan, with pictures in the layout that the trainer's data comes in."""
    state = our_state(arch, plan, device)
    real_BCHW, z_BL = inputs(arch, batch, device)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    real_BCHW = real_BCHW.contiguous(memory_format=layout)
    take_step = step_function(plan, state)
    return lambda: take_step(real_BCHW, z_BL)


def finisher(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done all the work it was given."""
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None
