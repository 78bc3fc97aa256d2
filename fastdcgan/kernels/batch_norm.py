"""What our implementations of BatchNorm share: statistics and gradients from sums, and the running statistics.

Shapes: N batches, each normalised by itself, of C channels. `count` is the numbers a channel of a global batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def normalise_each(normalise: Callable[[Tensor], Tensor], x_BCHW: Tensor, batches: int) -> Tensor:
    """Apply a BatchNorm to each of `batches` equal batches that are concatenated in `x_BCHW`."""
    if batches == 1:
        return normalise(x_BCHW)
    return torch.cat([normalise(batch_BCHW) for batch_BCHW in x_BCHW.chunk(batches)])


def statistics(sums_2NC: Tensor, count: int, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and 1 / standard deviation [N, C] in `dtype`, from the fp64 sums of x and of x^2."""
    mean_NC, square_NC = (sums_2NC / count).unbind()
    variance_NC = (square_NC - mean_NC.square()).clamp(min=0.0)
    invstd_NC = (variance_NC + epsilon).rsqrt()
    return mean_NC.to(dtype), variance_NC.to(dtype), invstd_NC.to(dtype)


def input_gradient_coefficients(sums_2NC: Tensor, count: int, invstd_NC: Tensor) -> tuple[Tensor, Tensor]:
    """a, b [N, C] of BatchNorm's gradient dx = weight invstd (dy - a - b (x - mean)).

    Args:
        sums_2NC: sums of dy and of dy (x - mean), fp64.
        count: numbers a channel.
        invstd_NC: 1 / standard deviation; its dtype is that of the result.
    """
    mean_dy_NC, mean_dy_xmu_NC = (sums_2NC / count).unbind()
    return mean_dy_NC.to(invstd_NC.dtype), (mean_dy_xmu_NC * invstd_NC.double().square()).to(invstd_NC.dtype)


def update_running_statistics(norm: nn.BatchNorm2d, mean_NC: Tensor, variance_NC: Tensor, count: int) -> None:
    """Update a BatchNorm's running mean, unbiased variance and batch counter, as `nn.BatchNorm2d` does, N times.

    Args:
        norm: changed in place.
        mean_NC: of each global batch.
        variance_NC: biased, of each global batch.
        count: numbers a channel; at least 2.
    """
    assert norm.running_mean is not None and norm.running_var is not None and norm.momentum is not None
    for mean_C, variance_C in zip(mean_NC, variance_NC, strict=True):
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean_C, norm.momentum)
        norm.running_var.lerp_(variance_C * (count / (count - 1)), norm.momentum)
