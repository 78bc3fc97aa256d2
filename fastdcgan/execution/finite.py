"""Detects NaN and infinity in training: by the norm of the weights, cheaply; and by name once something is wrong.

A gradient that is not finite makes weights that aren't either, and they stay so: Adam divides it by the root of its
square. So it suffices to look at the weights now and then, and no step has to wait. A step that fp16's gradient scaler
skips changes no weight.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fastdcgan.gan.step import TrainState

MIN_LOSS_SCALE = 2.0**-20
"""Of the fp16 gradient scaler. It begins at 2**16 and is halved at each overflow: below this every step overflows."""


def weight_norms(networks: Sequence[nn.Module]) -> Tensor:
    """The norm of each network's weights: [networks], fp32, on the device.

    Finite only if all of them are, and below about 1e19.
    """
    return torch.stack([torch.nn.utils.get_total_norm(list(network.parameters())).float() for network in networks])


def non_finite_tensors(state: TrainState) -> Iterator[str]:
    """Names of the tensors of networks and optimizers that hold a NaN or an infinity, the networks' first."""
    moments = []
    for label, network, optimizer in (
        ("generator", state.generator, state.optimizer_g),
        ("discriminator", state.discriminator, state.optimizer_d),
    ):
        for name, tensor in network.state_dict().items():
            if not torch.isfinite(tensor).all():
                yield f"{label}.{name}"
        for name, parameter in network.named_parameters():
            moments += [(f"{label}.{name}.{key}", tensor) for key, tensor in optimizer.state[parameter].items()]
    for name, tensor in moments:
        if not torch.isfinite(tensor).all():
            yield name


def overflowing_network(state: TrainState) -> str | None:
    """The network whose gradients overflow fp16 at any scale: discriminator, generator or None."""
    for label, scaler in (("discriminator", state.scaler_d), ("generator", state.scaler_g)):
        if scaler.is_enabled() and scaler.get_scale() < MIN_LOSS_SCALE:
            return label
    return None
