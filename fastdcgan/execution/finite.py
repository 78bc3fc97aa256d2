"""Detects NaN and infinity in what was learned, by name.

A gradient that is not finite makes weights that aren't either, and they stay so: Adam divides it by the root of its
square. The next step's losses are of these weights, and no numbers: so it suffices to look at the losses now and then,
and at what was learned before it is used. No step has to wait. A step that fp16's gradient scaler skips changes no
weight.
"""

import torch
from torch import Tensor

from fastdcgan.gan.step import TrainState

MIN_LOSS_SCALE = 2.0**-20
"""Of the fp16 gradient scaler. It begins at 2**16 and is halved at each overflow: below this every step overflows."""


def non_finite_tensors(state: TrainState) -> list[str]:
    """Names of the tensors of networks and optimizers that hold a NaN or an infinity, the networks' first.

    Waits for the device once.
    """
    learned: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for label, network, optimizer in (
        ("generator", state.generator, state.optimizer_g),
        ("discriminator", state.discriminator, state.optimizer_d),
    ):
        learned |= {f"{label}.{name}": tensor for name, tensor in network.state_dict().items()}
        for name, parameter in network.named_parameters():
            moments |= {f"{label}.{name}.{key}": tensor for key, tensor in optimizer.state[parameter].items()}
    tensors = learned | moments
    device = next(state.generator.parameters()).device  # an optimizer may count its steps on the host
    finite = torch.stack([torch.isfinite(tensor).all().to(device) for tensor in tensors.values()])
    return [name for name, is_finite in zip(tensors, finite.cpu().tolist(), strict=True) if not is_finite]


def loss_scales(state: TrainState) -> Tensor:
    """By what fp16's gradient scalers multiply G's and D's loss: [2], fp32, on the device. 1 without fp16."""
    one = torch.ones((), device=next(state.generator.parameters()).device)
    return torch.stack([scaler.scale(one) for scaler in (state.scaler_g, state.scaler_d)])


def overflowing_network(scales: Tensor) -> str | None:
    """The network whose gradients overflow fp16 at any scale, from `loss_scales`: discriminator, generator or None."""
    scale_g, scale_d = scales.tolist()
    if scale_d < MIN_LOSS_SCALE:
        return "discriminator"
    return "generator" if scale_g < MIN_LOSS_SCALE else None
