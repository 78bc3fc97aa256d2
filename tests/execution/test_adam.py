"""Our Adam is PyTorch's, bit for bit, in any memory layout, without the copies of gradients that it makes on a CPU."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from fastdcgan.private_torch import Adam

SHAPES = ((6, 5, 4, 4), (1, 8, 4, 4), (3, 1, 4, 4), (7, 3), (7,))


def weights(layout: torch.memory_format) -> list[torch.nn.Parameter]:
    """With gradients, in the layout of theirs."""
    rng = torch.Generator().manual_seed(0)
    made = []
    for shape in SHAPES:
        value, gradient = (torch.randn(shape, generator=rng) for _ in range(2))
        if len(shape) == 4:
            value, gradient = (tensor.contiguous(memory_format=layout) for tensor in (value, gradient))
        made.append(torch.nn.Parameter(value))
        made[-1].grad = gradient
    return made


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_it_is_pytorchs_bit_for_bit(layout: torch.memory_format) -> None:
    found, wanted = weights(layout), weights(layout)
    optimizers = Adam(found, lr=0.1, fused=True), torch.optim.Adam(wanted, lr=0.1, fused=True)
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.step()
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
        moments, of_theirs = optimizers[0].state[ours], optimizers[1].state[theirs]
        assert all(torch.equal(moments[name], of_theirs[name]) for name in ("exp_avg", "exp_avg_sq", "step"))
        assert moments["exp_avg"].stride() == ours.stride(), "a checkpoint has them as before"


def copies(optimizer: torch.optim.Optimizer) -> int:
    optimizer.step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        optimizer.step()
    return sum(event.count for event in seen.key_averages() if event.key == "aten::clone")


def test_it_copies_no_gradient_where_pytorchs_does() -> None:
    assert copies(torch.optim.Adam(weights(torch.channels_last), fused=True)), "PyTorch has mended it: ours can go"
    assert copies(Adam(weights(torch.channels_last), fused=True)) == 0
