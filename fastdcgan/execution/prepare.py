"""Carries out a plan: networks and optimizers ready to train, and the function that takes a step with them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import cast

import torch
from torch import nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution import exact_sums
from fastdcgan.execution.accumulate import MicroBatched, accumulated_train_step
from fastdcgan.execution.allocator import keep_freed_memory
from fastdcgan.execution.capture import CapturedStep, all_reduce_mean
from fastdcgan.execution.plan import DTYPES, KernelName, Plan, Precision
from fastdcgan.execution.replay import CpuReplayedStep, CudaGraph, Graph, ReplayedStep
from fastdcgan.execution.stacked import StackedDiscriminator
from fastdcgan.gan.gradient_penalty import GradientPenalty
from fastdcgan.gan.lecam import LeCamObjective
from fastdcgan.gan.models import Discriminator
from fastdcgan.gan.objectives import Objective, objective
from fastdcgan.gan.step import (
    StepMetrics,
    TrainState,
    discriminate_in_one_call,
    discriminate_in_two_calls,
    train_step,
)
from fastdcgan.kernels import ends, fused_batch_norm, thin, winograd
from fastdcgan.private_torch import Adam
from fastdcgan.storage.private import use_private_inductor_cache

INSTALL_KERNELS: dict[KernelName, Callable[[nn.Module], int]] = {
    "ends": ends.install,
    "norm": fused_batch_norm.install,
    "thin": thin.install,
    "winograd": winograd.install,
}
"""Each replaces layers of a network in place and returns how many."""

TakeStep = Callable[..., StepMetrics]
"""(real_BCHW, z_BL, draws_BN, labels_B) to metrics: `train_step` of a certain state; the last two may be left away."""


def _identity(network: nn.Module) -> nn.Module:
    return network


def prepare(
    plan: Plan,
    generator: nn.Module,
    discriminator: Discriminator,
    recipe: RecipeConfig,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = _identity,
    all_reduce_dtype: torch.dtype | None = None,
) -> TrainState:
    """Put a pair of networks on a device, with layout, kernels, compilation and optimizers as the plan says.

    Args:
        plan: how to execute. Its threads and memory settings are those of the process from now on.
        generator: changed in place (device, layout, layers' classes); its values stay.
        discriminator: likewise.
        recipe: objective, optimizer, and number of micro-batches.
        device: where to run.
        wrap: applied to the networks as a step calls them, outside of the compiled module: for DDP. A captured or
            replayed step averages gradients by itself and is not wrapped.
        all_reduce_dtype: to which such a step casts gradients for the all-reduce; None: not cast.
    """
    _configure_process(plan)
    for network in (generator, discriminator):
        _place(plan, network, device)
    optimizer_d = _adam(plan, discriminator, recipe, recipe.lr_d)
    penalty = None
    if recipe.r1 or recipe.r2:  # before layers are replaced by ours, which have no second derivative
        reduce = partial(all_reduce_mean, dtype=all_reduce_dtype)
        penalty = GradientPenalty(discriminator, optimizer_d, recipe.r1, recipe.r2, recipe.r1_every, reduce)
    _install_layers(plan, generator, parts=recipe.accumulate)
    _install_layers(plan, discriminator)
    if plan.capture or plan.replay:
        wrap = _identity
    called_generator, called_discriminator = _compiled(plan, generator), _compiled(plan, discriminator)
    if recipe.accumulate > 1 and not plan.shares:  # exact layers take the parts in one call
        called_generator = MicroBatched(called_generator, recipe.accumulate)
    call_discriminator = called_discriminator
    if plan.stacked:
        call_discriminator = StackedDiscriminator(discriminator)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        call_generator=wrap(called_generator),
        call_discriminator=wrap(call_discriminator),
        discriminate=discriminate_in_one_call if plan.stacked else discriminate_in_two_calls,
        call_frozen_discriminator=called_discriminator,
        optimizer_g=_adam(plan, generator, recipe, recipe.lr_g),
        optimizer_d=optimizer_d,
        scaler_g=_scaler(plan, device),
        scaler_d=_scaler(plan, device),
        autocast=_autocast(plan.precision, device),
        objective=_objective(plan, recipe, discriminator),
        all_reduce_dtype=all_reduce_dtype,
        accumulate=recipe.accumulate,
        each_part_crosses=plan.shares > 0,
        d_steps=recipe.d_steps,
        augmentation=recipe.augmentation(),
        penalty=penalty,
    )


def step_function(plan: Plan, state: TrainState, make_graph: Callable[[], Graph] | None = None) -> TakeStep:
    """The step of a state that `prepare` made from the same plan: as one graph, or operator by operator.

    `make_graph` records and repeats a replayed step; None: what the device has for it.
    """
    if plan.capture:
        assert plan.backend is not None, plan
        return CapturedStep(state, plan.backend)
    take_step = train_step if state.accumulate == 1 else accumulated_train_step
    if not plan.replay:
        return partial(take_step, state)
    if make_graph is None and next(state.generator.parameters()).device.type == "cpu":
        return CpuReplayedStep(state, take_step)
    return ReplayedStep(state, take_step, make_graph or CudaGraph)


def _configure_process(plan: Plan) -> None:
    if plan.keep_memory:
        keep_freed_memory()
    if plan.backend == "inductor":
        use_private_inductor_cache()
    if plan.threads:
        torch.set_num_threads(plan.threads)


def _place(plan: Plan, network: nn.Module, device: torch.device) -> None:
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]


def _install_layers(plan: Plan, network: nn.Module, parts: int = 1) -> None:
    for name in plan.kernels:
        INSTALL_KERNELS[name](network)
    if plan.shares:
        exact_sums.install(network, plan.shares, parts)


def _compiled(plan: Plan, network: nn.Module) -> nn.Module:
    if plan.backend is None or plan.capture:
        return network
    # Shapes never change during training, so symbolic shapes would only be slower.
    return cast(nn.Module, torch.compile(network, backend=plan.backend, fullgraph=True, dynamic=False))


def _adam(plan: Plan, network: nn.Module, recipe: RecipeConfig, own_lr: float | None) -> torch.optim.Adam:
    return Adam(
        network.parameters(),
        lr=recipe.lr if own_lr is None else own_lr,
        betas=(recipe.beta1, recipe.beta2),
        fused=plan.fused_adam,
        capturable=plan.replay and next(network.parameters()).device.type == "cuda",
    )


def _scaler(plan: Plan, device: torch.device) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")


def _autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Makes an autocast context at each call; in fp32 it does nothing."""
    return lambda: torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


def _objective(plan: Plan, recipe: RecipeConfig, discriminator: Discriminator) -> Objective:
    plain = objective(recipe.objective, recipe.label_smoothing)
    if recipe.lecam:
        reduce = partial(all_reduce_mean, dtype=None)
        return LeCamObjective(**vars(plain), network=discriminator, weight=recipe.lecam, all_reduce_mean=reduce)
    return exact_sums.exact_objective(plain, plan.shares) if plan.shares else plain
