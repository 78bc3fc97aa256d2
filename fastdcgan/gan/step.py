"""The training step: computes what `reference.train_step` does, without computing what is not used.

Three differences, none of which changes a result: D's parameters are frozen while G learns (their gradients would be
thrown away: 1 of 12 convolution passes), forward passes may run under autocast with gradient scalers, and the metrics
stay on the device.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fastdcgan.config import AugmentName
from fastdcgan.gan import ranges
from fastdcgan.gan.augment import augment
from fastdcgan.gan.average import MovingAverage
from fastdcgan.gan.gradient_penalty import GradientPenalty
from fastdcgan.gan.models import Discriminator
from fastdcgan.gan.objectives import Objective
from fastdcgan.gan.ranges import profiler_range

Network = Callable[..., Tensor]
"""G or D, of noise or pictures, and of labels_B where there are classes."""

Discriminate = Callable[[Network, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""(D, real_BCHW, fake_BCHW, labels_B) to D's logits [B] for real and for fake, both of these classes."""


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
    """The plain module: it owns the parameters, and is what samples and is saved."""

    discriminator: Discriminator

    call_generator: Network
    """The generator as a step calls it: compiled, wrapped in DDP, or the plain module itself."""

    call_discriminator: Network

    discriminate: Discriminate
    """How `call_discriminator` is applied to a real and a fake batch."""

    call_frozen_discriminator: Network
    """D without DDP: while G learns, D has no gradients to average."""

    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer

    scaler_g: torch.amp.GradScaler
    """One scaler a network: a shared one would let an overflow in one loss skip or shrink the other's update."""

    scaler_d: torch.amp.GradScaler

    autocast: Callable[[], AbstractContextManager[object]]
    objective: Objective

    all_reduce_dtype: torch.dtype | None = None
    """To which gradients are cast for the all-reduce of a captured or replayed step; None: not cast. DDP has a hook."""

    accumulate: int = 1
    """Micro-batches of a batch (`accumulate.py`)."""

    each_part_crosses: bool = False
    """Whether D's gradients are all-reduced after each micro-batch, so that they add up in one order on any number of
    ranks (`exact_sums.py`); else once, with the last."""

    d_steps: int = 1
    """D's updates in a step, each with pictures of its own."""

    augmentation: tuple[AugmentName, ...] = ()
    """How the pictures that D sees are changed (`augment.py`)."""

    penalty: GradientPenalty | None = None
    """On D's gradient. A step doesn't apply it: `penalise` does, after the step."""

    average: MovingAverage | None = None
    """Of the generator. A step doesn't update it: `average.update` does, after the step."""

    @property
    def sampler(self) -> nn.Module:
        """The network that pictures are made with: the average, or the generator where there is none."""
        return self.generator if self.average is None else self.average.network


def call(network: Network, x: Tensor, labels_B: Tensor | None) -> Tensor:
    """What a network makes of noise or pictures, of these classes if there are any."""
    return network(x) if labels_B is None else network(x, labels_B)


def discriminate_in_two_calls(
    D: Network, real_BCHW: Tensor, fake_BCHW: Tensor, labels_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """D on real pictures, then D on fake ones."""
    with profiler_range(ranges.DISCRIMINATOR_REAL):
        logits_real_B = call(D, real_BCHW, labels_B)
    with profiler_range(ranges.DISCRIMINATOR_FAKE):
        logits_fake_B = call(D, fake_BCHW, labels_B)
    return logits_real_B, logits_fake_B


def discriminate_in_one_call(
    D: Network, real_BCHW: Tensor, fake_BCHW: Tensor, labels_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """D on real and fake pictures concatenated [2B, C, H, W]. D must normalise each half by itself (`stacked.py`)."""
    with profiler_range(ranges.DISCRIMINATOR_BOTH):
        both_BCHW = torch.cat((real_BCHW, fake_BCHW.to(real_BCHW.dtype)))
        logits_real_B, logits_fake_B = call(D, both_BCHW, None if labels_B is None else labels_B.repeat(2)).chunk(2)
    return logits_real_B, logits_fake_B


def discriminator_loss(
    D: Network,
    real_BCHW: Tensor,
    fake_BCHW: Tensor,
    objective: Objective,
    discriminate: Discriminate = discriminate_in_two_calls,
    labels_B: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """D's loss on a real and a fake batch, both of these classes. BatchNorm must not mix the two.

    Returns:
        the loss (scalar, fp32), and D's logits [B] for real and for fake.
    """
    logits_real_B, logits_fake_B = discriminate(D, real_BCHW, fake_BCHW, labels_B)
    return objective.discriminator(logits_real_B, logits_fake_B), logits_real_B, logits_fake_B


def generator_loss(
    D: Network, real_BCHW: Tensor, fake_BCHW: Tensor, objective: Objective, labels_B: Tensor | None = None
) -> Tensor:
    """G's loss (scalar, fp32), from D's logits on its pictures. D should be frozen.

    Real pictures are judged again, by D as it is now, where the loss depends on them; no gradient passes there.
    """
    with profiler_range(ranges.GENERATOR_LOSS):
        logits_real_B = call(D, real_BCHW, labels_B).detach() if objective.relativistic else None
        return objective.generator(call(D, fake_BCHW, labels_B), logits_real_B)


class Update(NamedTuple):
    """What D learns from in one update."""

    real: Tensor
    """[B, C, H, W], as D sees them."""

    z: Tensor
    """[B, L], of the fake pictures."""

    draws: Tensor | None
    """[B, N]: random numbers by which fake pictures are changed before D sees them; None: they aren't."""

    labels: Tensor | None
    """[B]: the class of each real picture, and of the fake one beside it; None: there are no classes."""

    is_last: bool
    """Of the step: G learns from its fake pictures."""


def train_step(
    state: TrainState,
    real_BCHW: Tensor,
    z_BL: Tensor,
    draws_BN: Tensor | None = None,
    labels_B: Tensor | None = None,
) -> StepMetrics:
    """One iteration: D learns from real and fake pictures, `state.d_steps` times, then G learns from the updated D.

    No random numbers are drawn, and nothing is moved to the host.

    Args:
        state: networks and optimizers; changed in place.
        real_BCHW: real pictures in [-1, 1]: the batches that D learns from, one after the other.
        z_BL: standard normal noise likewise. G learns from the last batch's.
        draws_BN: uniform numbers for the augmentation, if there is one: `augment.NUMBERS` for each real picture, then
            as many for the fake one.
        labels_B: int64: the class of each real picture, where there are classes. The fake one beside it is of the same
            class: so fake pictures have the data's balance, and D can't tell them by their labels.
    """
    # Autocast caches casts of weights until its context ends. D's weights change between updates, so each phase has its
    # own context: in a common one G would learn from D before its update.
    for update in updates_of_discriminator(state, real_BCHW, z_BL, draws_BN, labels_B):
        state.discriminator.before_update()
        with state.autocast():
            fake_bCHW = generate(state, update)
            loss_d, logits_real_B, logits_fake_B = discriminator_loss(
                state.call_discriminator,
                update.real,
                fake_bCHW.detach(),
                state.objective,
                state.discriminate,
                update.labels,
            )
        with profiler_range(ranges.BACKWARD_D):
            _backward(loss_d, state.optimizer_d, state.scaler_d)
        with profiler_range(ranges.OPTIMIZER_D):
            optimizer_step(state.optimizer_d, state.scaler_d)
        state.objective.after_update(logits_real_B.detach(), logits_fake_B.detach())

    with frozen(state.discriminator):
        with state.autocast():
            loss_g = generator_loss(
                state.call_frozen_discriminator, update.real, fake_bCHW, state.objective, update.labels
            )
        with profiler_range(ranges.BACKWARD_G):
            _backward(loss_g, state.optimizer_g, state.scaler_g)
        with profiler_range(ranges.OPTIMIZER_G):
            optimizer_step(state.optimizer_g, state.scaler_g)

    with profiler_range(ranges.METRICS):
        return StepMetrics(
            loss_d.detach(), loss_g.detach(), *state.objective.probabilities(logits_real_B, logits_fake_B)
        )


def updates_of_discriminator(
    state: TrainState, real_BCHW: Tensor, z_BL: Tensor, draws_BN: Tensor | None, labels_B: Tensor | None
) -> list[Update]:
    """What D learns from in a step, update by update."""
    assert len(real_BCHW) % state.d_steps == 0, (real_BCHW.shape, state.d_steps)
    draws_of_fake_BN = None
    if state.augmentation:
        assert draws_BN is not None, "what D sees is changed by random numbers"
        draws_of_real_BN, draws_of_fake_BN = draws_BN.chunk(2, dim=1)
        with profiler_range(ranges.AUGMENTATION):
            real_BCHW = augment(real_BCHW, draws_of_real_BN, state.augmentation)
    updates = zip(
        real_BCHW.chunk(state.d_steps),
        z_BL.chunk(state.d_steps),
        chunks(draws_of_fake_BN, state.d_steps),
        chunks(labels_B, state.d_steps),
        (number == state.d_steps - 1 for number in range(state.d_steps)),
        strict=True,
    )
    return [Update(*update) for update in updates]


def generate(state: TrainState, update: Update) -> Tensor:
    """G's pictures, as D sees them, under the caller's autocast.

    Only those that G learns from keep what its backward pass needs.
    """
    with torch.set_grad_enabled(update.is_last):
        with profiler_range(ranges.GENERATOR):
            fake_BCHW = call(state.call_generator, update.z, update.labels)
        return as_discriminator_sees(state, fake_BCHW, update.draws)


def as_discriminator_sees(state: TrainState, fake_BCHW: Tensor, draws_BN: Tensor | None) -> Tensor:
    """Fake pictures, changed by these numbers if there are any."""
    if draws_BN is None:
        return fake_BCHW
    with profiler_range(ranges.AUGMENTATION):
        return augment(fake_BCHW, draws_BN, state.augmentation)


def chunks(tensor: Tensor | None, count: int) -> Sequence[Tensor | None]:
    """Equal parts of a tensor, or as many None."""
    return [None] * count if tensor is None else tensor.chunk(count)


def penalise(
    state: TrainState,
    step: int,
    real_BCHW: Tensor,
    z_BL: Tensor,
    draws_BN: Tensor | None = None,
    labels_B: Tensor | None = None,
) -> None:
    """Update D by the penalty on its gradient, if there is one and it is due after this step, counted from 1.

    The others are the step's inputs.
    """
    if state.penalty is not None and state.penalty.is_due(step):
        with profiler_range(ranges.PENALTY):
            *_, last = updates_of_discriminator(state, real_BCHW, z_BL, draws_BN, labels_B)
            state.penalty.update(last.real, partial(_generate_anew, state, last), state.accumulate, last.labels)


@torch.no_grad()
def _generate_anew(state: TrainState, update: Update) -> Tensor:
    """The pictures that G, updated meanwhile, makes of an update's noise, as D sees them. In fp32, not compiled."""
    parts = zip(update.z.chunk(state.accumulate), chunks(update.labels, state.accumulate), strict=True)
    fake_BCHW = torch.cat([call(state.generator, z_bL, labels_b) for z_bL, labels_b in parts])
    return as_discriminator_sees(state, fake_BCHW, update.draws)


def _backward(loss: Tensor, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()


def optimizer_step(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler) -> None:
    """Update the parameters, unless the gradient scaler found an overflow."""
    scaler.step(optimizer)
    scaler.update()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Within this context gradients flow through the network but are not computed for its parameters."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
