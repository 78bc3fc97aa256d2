"""Whether training still computes with numbers: cheap enough to ask at every tick, by name once something is wrong.

A gradient that is not finite leaves weights behind that aren't either, for good: Adam divides it by the root of its
square. So at a tick the weights tell of all steps before it, and no step has to wait. A step that a gradient scaler
leaves out, as fp16's may be, changes none.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fastdcgan.gan.step import TrainState

LEAST_SCALE = 2.0**-20
"""Of fp16's losses. It begins at 2**16 and is halved with each step whose gradients overflow: at this one none fits."""


def norms(networks: Sequence[nn.Module]) -> Tensor:
    """Of each network's weights: fp32, on the device, finite only if all of them are (and below about 1e19)."""
    return torch.stack([torch.nn.utils.get_total_norm(list(network.parameters())).float() for network in networks])


def not_finite(state: TrainState) -> Iterator[str]:
    """Names of all tensors of the networks and the optimizers that hold a NaN or an infinity, weights first."""
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


def overflowing(state: TrainState) -> str | None:
    """Which network's gradients overflow fp16 whatever its loss is scaled by; None in other precisions."""
    for label, scaler in (("discriminator", state.scaler_d), ("generator", state.scaler_g)):
        if scaler.is_enabled() and scaler.get_scale() < LEAST_SCALE:
            return label
    return None
