"""Mistakes that cost nothing on a CPU, each to be planted in a run on the stand-in device."""

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from fastdcgan.data import array, stream
from fastdcgan.execution import prepare
from fastdcgan.execution.finite import loss_scales
from fastdcgan.gan import objectives
from fastdcgan.gan.step import StepMetrics, TrainState, train_step
from fastdcgan.runs import sampling
from fastdcgan.runs.checkpoints import checkpoint
from fastdcgan.training import recorder, trainer


def _step(patch: pytest.MonkeyPatch, then: Callable[[TrainState, Tensor, StepMetrics], object]) -> None:
    """Do something more in every step."""

    def step(state: TrainState, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
        metrics = train_step(state, real_BCHW, z_BL)
        then(state, real_BCHW, metrics)
        return metrics

    patch.setattr(prepare, "train_step", step)


def item_in_the_step(patch: pytest.MonkeyPatch) -> None:
    _step(patch, lambda state, real_BCHW, metrics: metrics.loss_d.item())


def decision_in_the_step(patch: pytest.MonkeyPatch) -> None:
    _step(patch, lambda state, real_BCHW, metrics: bool(metrics.loss_d > metrics.loss_g))


def copy_to_the_host_in_the_step(patch: pytest.MonkeyPatch) -> None:
    _step(patch, lambda state, real_BCHW, metrics: torch.stack(metrics).to("cpu", non_blocking=True))


def mask_in_the_step(patch: pytest.MonkeyPatch) -> None:
    _step(patch, lambda state, real_BCHW, metrics: real_BCHW[real_BCHW > 0])


def synchronised_step(patch: pytest.MonkeyPatch) -> None:
    _step(patch, lambda state, real_BCHW, metrics: torch.get_device_module(real_BCHW.device).synchronize())


def fetched_in_a_backward_pass(patch: pytest.MonkeyPatch) -> None:
    """On the device's thread, where no function of ours is called."""

    def hooked(state: TrainState, real_BCHW: Tensor, metrics: StepMetrics) -> None:
        weight = next(state.generator.parameters())
        if not weight._backward_hooks:
            weight.register_hook(lambda gradient: gradient if gradient.sum().isfinite() else gradient * 0)

    _step(patch, hooked)


def noise_left_on_the_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "to_device", lambda tensor, device: tensor)


def noise_not_pinned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(trainer, "pinned_for", lambda tensor, device: tensor)
    patch.setattr(trainer, "to_device", lambda tensor, device: tensor.to(device, non_blocking=True))


def pictures_not_pinned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stream, "to_device", lambda tensor, device: tensor.to(device))


def numbers_left_on_the_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(array, "to_device", lambda tensor, device: tensor)


def indexed_from_the_host(patch: pytest.MonkeyPatch) -> None:
    def read(self: Any, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        for numbers in batches:
            yield self.pictures_NHWC[torch.as_tensor(numbers)]

    patch.setattr(array.DeviceSource, "read", read)


def mean_over_a_wrong_axis(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(objectives, "_cross_entropy", lambda logits_B, label: (logits_B - label).square().mean(1))


def scales_fetched_one_by_one(patch: pytest.MonkeyPatch) -> None:
    def fetched(state: TrainState) -> Tensor:
        torch.tensor([scaler.get_scale() for scaler in (state.scaler_g, state.scaler_d)])
        return loss_scales(state)

    patch.setattr(recorder, "loss_scales", fetched)


def tensors_checked_one_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        recorder,
        "non_finite_tensors",
        lambda state: [name for name, x in state.generator.state_dict().items() if not torch.isfinite(x).all()],
    )


def pictures_fetched_one_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sampling, "CHUNK", 1)


def tensors_copied_twice(patch: pytest.MonkeyPatch) -> None:
    copies = checkpoint.cpu_copies
    patch.setattr(checkpoint, "cpu_copies", lambda tensors: copies(tensors) and copies(tensors))


def autocast_lost(patch: pytest.MonkeyPatch) -> None:
    """As it is by itself, with only a warning, where PyTorch finds no such device."""
    patch.setattr(prepare, "_autocast", lambda precision, device: nullcontext)


def overflow(patch: pytest.MonkeyPatch) -> None:
    """No fault of the program's: weights that stop being numbers after step 8, once."""
    taken: list[int] = []

    def spoil(state: TrainState, *_: object) -> None:
        taken.append(1)
        if len(taken) == 8:
            with torch.no_grad():
                next(state.generator.parameters()).fill_(float("nan"))

    _step(patch, spoil)
