"""Gradient accumulation: a batch in micro-batches, whose gradients are averaged before each network's one update.

BatchNorm normalises each micro-batch by itself; apart from that the step is the one on the whole batch. D's activations
are those of one micro-batch at a time. G's pictures are made once for the whole batch, as D must judge the same
pictures before and after its update; so G's activations are kept, and G runs backward once.

Gradients are all-reduced once a network and iteration: D's with the last micro-batch, G's in its backward pass. Only
where sums have one order (`exact_sums.py`), D's are after each micro-batch.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastdcgan.gan import ranges
from fastdcgan.gan.ranges import profiler_range
from fastdcgan.gan.step import (
    Network,
    StepMetrics,
    TrainState,
    chunks,
    discriminator_loss,
    frozen,
    generate,
    generator_loss,
    optimizer_step,
    updates_of_discriminator,
)


class MicroBatched(nn.Module):
    """A network that is applied to the micro-batches of its input one after the other."""

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.network = network
        self.count = count

    def forward(self, *x_B: Tensor) -> Tensor:
        """Inputs [B, ...] to the network's results, concatenated; B is a multiple of the number of micro-batches."""
        return torch.cat([self.network(*x_b) for x_b in zip(*(x.chunk(self.count) for x in x_B), strict=True)])


def accumulated_train_step(
    state: TrainState,
    real_BCHW: Tensor,
    z_BL: Tensor,
    draws_BN: Tensor | None = None,
    labels_B: Tensor | None = None,
) -> StepMetrics:
    """One iteration as `step.train_step`, in `state.accumulate` micro-batches; metrics are means over them.

    Args:
        state: networks and optimizers; changed in place. `call_generator` takes the whole batch.
        real_BCHW: real pictures in [-1, 1]; those of each of D's updates are a multiple of the micro-batches.
        z_BL: standard normal noise.
        draws_BN: as there.
        labels_B: likewise.
    """
    for update in updates_of_discriminator(state, real_BCHW, z_BL, draws_BN, labels_B):
        assert len(update.real) % state.accumulate == 0, (update.real.shape, state.accumulate)
        state.discriminator.before_update()
        with state.autocast():
            fake_bCHW = generate(state, update)
        metrics_d = _update_discriminator(state, update.real, fake_bCHW.detach(), update.labels)
    losses_g = _update_generator(state, update.real, fake_bCHW, update.labels)
    with profiler_range(ranges.METRICS):
        loss_d, d_real, d_fake = (torch.stack(values).mean() for values in zip(*metrics_d, strict=True))
        return StepMetrics(loss_d, torch.stack(losses_g).mean(), d_real, d_fake)


def _update_discriminator(
    state: TrainState, real_BCHW: Tensor, fake_BCHW: Tensor, labels_B: Tensor | None
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Returns loss_d, d_real and d_fake of each micro-batch."""
    metrics, logits = [], []
    sums: list[Tensor] = []
    parameters = list(state.discriminator.parameters())
    state.optimizer_d.zero_grad(set_to_none=True)
    parts = state.accumulate
    micro_batches = zip(real_BCHW.chunk(parts), fake_BCHW.chunk(parts), chunks(labels_B, parts), strict=True)
    for number, (real_bCHW, fake_bCHW, labels_b) in enumerate(micro_batches, start=1):
        is_last = number == state.accumulate
        # Around the forward pass too: that is where DDP decides whether the backward pass all-reduces.
        with nullcontext() if is_last or state.each_part_crosses else _no_sync(state.call_discriminator):
            with state.autocast():
                loss_d, logits_real_b, logits_fake_b = discriminator_loss(
                    state.call_discriminator, real_bCHW, fake_bCHW, state.objective, state.discriminate, labels_b
                )
            with profiler_range(ranges.BACKWARD_D):
                state.scaler_d.scale(loss_d / state.accumulate).backward()
        if state.each_part_crosses:
            sums = _moved_to(sums, parameters)
        logits.append((logits_real_b.detach(), logits_fake_b.detach()))
        metrics.append((loss_d.detach(), *state.objective.probabilities(logits_real_b, logits_fake_b)))
    for parameter, gradient in zip(parameters, sums, strict=state.each_part_crosses):
        parameter.grad = gradient
    with profiler_range(ranges.OPTIMIZER_D):
        optimizer_step(state.optimizer_d, state.scaler_d)
    state.objective.after_update(*map(torch.cat, zip(*logits, strict=True)))
    return metrics


def _moved_to(sums: list[Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """The sums with the gradients of a micro-batch added, which the parameters have no longer."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for parameter in parameters:
        parameter.grad = None
    if not sums:
        return [gradient.clone() for gradient in gradients]  # of DDP's buffer, which the next ones go into
    return [total.add_(gradient) for total, gradient in zip(sums, gradients, strict=True)]


def _update_generator(state: TrainState, real_BCHW: Tensor, fake_BCHW: Tensor, labels_B: Tensor | None) -> list[Tensor]:
    """Returns loss_g of each micro-batch."""
    losses: list[Tensor] = []
    gradients_bCHW: list[Tensor] = []
    with frozen(state.discriminator):
        parts = state.accumulate
        micro_batches = zip(
            real_BCHW.chunk(parts), fake_BCHW.detach().chunk(parts), chunks(labels_B, parts), strict=True
        )
        for real_bCHW, fake_bCHW, labels_b in micro_batches:
            fake_bCHW.requires_grad_()
            with state.autocast():
                loss_g = generator_loss(
                    state.call_frozen_discriminator, real_bCHW, fake_bCHW, state.objective, labels_b
                )
            with profiler_range(ranges.BACKWARD_G):
                gradients_bCHW += torch.autograd.grad(state.scaler_g.scale(loss_g / state.accumulate), fake_bCHW)
            losses.append(loss_g.detach())
    state.optimizer_g.zero_grad(set_to_none=True)
    with profiler_range(ranges.BACKWARD_G):
        fake_BCHW.backward(torch.cat(gradients_bCHW))
    with profiler_range(ranges.OPTIMIZER_G):
        optimizer_step(state.optimizer_g, state.scaler_g)
    return losses


def _no_sync(network: Network) -> AbstractContextManager[None]:
    """Within this context DDP does not all-reduce gradients."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
