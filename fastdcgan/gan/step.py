"""The training step: what `reference.train_step` does, with nothing computed that is not used.

Three differences, none of which changes a result: D's parameters are frozen while G learns (their gradients would be
thrown away: 1 of 12 convolution passes), forwards may run under autocast with the optimizers behind gradient scalers,
and the figures that come back stay on the device.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdcgan.gan import ranges
from fastdcgan.gan.objectives import Objective
from fastdcgan.gan.ranges import named

Network = Callable[[Tensor], Tensor]

Judge = Callable[[Network, Tensor, Tensor], tuple[Tensor, Tensor]]
"""How D is asked about a real and a fake batch: its logits [B] for each."""


class StepMetrics(NamedTuple):
    """Scalars on the device, fp32; D's probabilities are those before its update."""

    loss_d: Tensor
    loss_g: Tensor
    d_real: Tensor
    d_fake: Tensor


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything a step changes, and how to call it."""

    generator: nn.Module
    """The plain module: owns the parameters, samples, is saved."""

    discriminator: nn.Module

    call_generator: Network
    """The same network as it is run in a step: compiled, wrapped for DDP, or the plain module itself."""

    call_discriminator: Network

    judge: Judge

    call_frozen_discriminator: Network
    """D without DDP: while G learns, D has no gradients to average."""

    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer

    scaler_g: torch.amp.GradScaler
    """One scaler a network: a shared one would let an overflow in one loss skip or shrink the other's update."""

    scaler_d: torch.amp.GradScaler

    autocast: Callable[[], AbstractContextManager[object]]
    objective: Objective

    gradients_cross_as: torch.dtype | None = None
    """Between processes, where the step averages them itself; None: as they are. DDP is told when it is made."""

    accumulate: int = 1
    """Parts that a batch is taken in (`accumulate.py`)."""


def apart(D: Network, real_BCHW: Tensor, fake_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """One after the other."""
    with named(ranges.DISCRIMINATOR_REAL):
        logits_real_B = D(real_BCHW)
    with named(ranges.DISCRIMINATOR_FAKE):
        logits_fake_B = D(fake_BCHW)
    return logits_real_B, logits_fake_B


def together(D: Network, real_BCHW: Tensor, fake_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """As one stack: D must keep its halves apart, as `stacked.Stacked` does."""
    with named(ranges.DISCRIMINATOR_BOTH):
        logits_real_B, logits_fake_B = D(torch.cat((real_BCHW, fake_BCHW.to(real_BCHW.dtype)))).chunk(2)
    return logits_real_B, logits_fake_B


def discriminator_loss(
    D: Network, real_BCHW: Tensor, fake_BCHW: Tensor, objective: Objective, judge: Judge = apart
) -> tuple[Tensor, Tensor, Tensor]:
    """D's loss on a real and a fake batch: BatchNorm must see real and fake apart.

    Returns:
        the loss (scalar, fp32), and D's logits [B] for real and for fake.
    """
    logits_real_B, logits_fake_B = judge(D, real_BCHW, fake_BCHW)
    return objective.discriminator(logits_real_B, logits_fake_B), logits_real_B, logits_fake_B


def generator_loss(D: Network, fake_BCHW: Tensor, objective: Objective) -> Tensor:
    """G's loss (scalar, fp32): how far D is from taking its pictures for real. D should be frozen."""
    with named(ranges.GENERATOR_LOSS):
        return objective.generator(D(fake_BCHW))


def train_step(state: TrainState, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
    """One iteration: D learns from real and fake pictures, then G learns from the updated D.

    A function of its inputs and the state: no random numbers are drawn, nothing is moved to the host.

    Args:
        state: networks and optimizers; changed in place.
        real_BCHW: real pictures in [-1, 1].
        z_BL: standard normal noise.
    """
    # Autocast keeps bf16 copies of weights until its context ends. D's weights change between the two phases, so each
    # phase needs a context of its own: in a common one G would learn from the D of the step before.
    with state.autocast():
        with named(ranges.GENERATOR):
            fake_BCHW = state.call_generator(z_BL)
        loss_d, logits_real_B, logits_fake_B = discriminator_loss(
            state.call_discriminator, real_BCHW, fake_BCHW.detach(), state.objective, state.judge
        )
    with named(ranges.BACKWARD_D):
        _go_back(loss_d, state.optimizer_d, state.scaler_d)
    with named(ranges.OPTIMIZER_D):
        update(state.optimizer_d, state.scaler_d)

    with frozen(state.discriminator):
        with state.autocast():
            loss_g = generator_loss(state.call_frozen_discriminator, fake_BCHW, state.objective)
        with named(ranges.BACKWARD_G):
            _go_back(loss_g, state.optimizer_g, state.scaler_g)
        with named(ranges.OPTIMIZER_G):
            update(state.optimizer_g, state.scaler_g)

    with named(ranges.METRICS):
        return StepMetrics(
            loss_d.detach(),
            loss_g.detach(),
            logits_real_B.detach().float().sigmoid().mean(),
            logits_fake_B.detach().float().sigmoid().mean(),
        )


def _go_back(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()


def update(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Down the gradients, unless the scaler finds that they overflowed."""
    scaler.step(optimizer)
    scaler.update()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients flow through the network but are not computed for its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
