"""A batch taken in parts: each has its own way forward and back, gradients are averaged, each network is updated once.

BatchNorm normalises over a part; but for that it is the step on the whole batch. D's activations are those of one part.
G judges itself by the pictures that D was shown, so G's are kept for the whole batch, and G goes back once.

Gradients cross between processes once a network and iteration: D's with the last part, G's with its only way back.
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
    discriminator_loss,
    frozen,
    generator_loss,
    optimizer_step,
)


class InParts(nn.Module):
    """A network that takes its batch in equal parts, one after the other."""

    def __init__(self, network: nn.Module, parts: int) -> None:
        super().__init__()
        self.network = network
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """What the network does of its input, [B, ...]."""
        return torch.cat([self.network(part) for part in x.chunk(self.parts)])


def train_step_in_parts(state: TrainState, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
    """One iteration as `step.train_step`, in `state.accumulate` parts; figures are means over them.

    Args:
        state: networks and optimizers; changed in place. `call_generator` takes the whole batch.
        real_BCHW: real pictures in [-1, 1]; B is a multiple of the parts.
        z_BL: standard normal noise.
    """
    parts = state.accumulate
    assert len(real_BCHW) % parts == 0, (real_BCHW.shape, parts)
    with state.autocast(), profiler_range(ranges.GENERATOR):
        fake_BCHW = state.call_generator(z_BL)

    figures = []
    state.optimizer_d.zero_grad(set_to_none=True)
    for left, real_bCHW, fake_bCHW in zip(
        reversed(range(parts)), real_BCHW.chunk(parts), fake_BCHW.detach().chunk(parts), strict=True
    ):
        # DDP looks at this in its forward.
        with _kept_here(state.call_discriminator) if left else nullcontext():
            with state.autocast():
                loss_d, logits_real_b, logits_fake_b = discriminator_loss(
                    state.call_discriminator, real_bCHW, fake_bCHW, state.objective, state.discriminate
                )
            with profiler_range(ranges.BACKWARD_D):
                state.scaler_d.scale(loss_d / parts).backward()
        figures.append((loss_d.detach(), probability(logits_real_b), probability(logits_fake_b)))
    with profiler_range(ranges.OPTIMIZER_D):
        optimizer_step(state.optimizer_d, state.scaler_d)

    losses_g: list[Tensor] = []
    ways_back: list[Tensor] = []
    with frozen(state.discriminator):
        for part_bCHW in fake_BCHW.detach().chunk(parts):
            part_bCHW.requires_grad_()
            with state.autocast():
                loss_g = generator_loss(state.call_frozen_discriminator, part_bCHW, state.objective)
            with profiler_range(ranges.BACKWARD_G):
                ways_back += torch.autograd.grad(state.scaler_g.scale(loss_g / parts), part_bCHW)
            losses_g.append(loss_g.detach())
    state.optimizer_g.zero_grad(set_to_none=True)
    with profiler_range(ranges.BACKWARD_G):
        fake_BCHW.backward(torch.cat(ways_back))
    with profiler_range(ranges.OPTIMIZER_G):
        optimizer_step(state.optimizer_g, state.scaler_g)

    with profiler_range(ranges.METRICS):
        loss_d, d_real, d_fake = (torch.stack(of_parts).mean() for of_parts in zip(*figures, strict=True))
        return StepMetrics(loss_d, torch.stack(losses_g).mean(), d_real, d_fake)


def probability(logits_B: Tensor) -> Tensor:
    """The mean over a batch, fp32, without its history."""
    return logits_B.detach().float().sigmoid().mean()


def _kept_here(network: Network) -> AbstractContextManager[None]:
    """Gradients are added up in this process alone."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()
