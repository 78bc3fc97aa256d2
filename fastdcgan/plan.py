"""How a step is executed on this machine, as data: precision, memory layout, compilation.

A plan never changes what is computed. `prepare` applies one to a pair of networks.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.objectives import objective
from fastdcgan.step import TrainState

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to carry out the step."""

    precision: Precision = "fp32"
    channels_last: bool = True
    backend: str | None = None
    """torch.compile's backend for both networks; None runs them eagerly."""

    fused_adam: bool = True

    def __str__(self) -> str:
        """A line for people: "bf16, channels-last, eager, fused Adam"."""
        return ", ".join(
            (
                self.precision,
                "channels-last" if self.channels_last else "channels-first",
                f"compiled by {self.backend}" if self.backend else "eager",
                "fused Adam" if self.fused_adam else "plain Adam",
            )
        )


def choose_plan(request: ExecutionConfig, device: torch.device) -> Plan:
    """Turn a request with its `auto`s into a plan for a device.

    Args:
        request: what the user asked for.
        device: where the step runs.

    Raises:
        ValueError: if the device can't do what was asked for.
    """
    precision = request.precision
    if precision == "auto":
        precision = native_precision(device)
    if precision == "fp16" and device.type == "mps":
        raise ValueError("--precision fp16 needs a gradient scaler, which MPS has not: use fp32 or bf16")
    compiled = request.compile == "on" or (request.compile == "auto" and device.type == "cuda")
    if compiled and device.type == "cpu" and not has_cpp_compiler():
        raise ValueError("--compile on needs a C++ compiler on the CPU: install g++ or set CXX, or use --compile off")
    return Plan(precision=precision, backend="inductor" if compiled else None)


def has_cpp_compiler() -> bool:
    """Whether Inductor can build its CPU kernels here."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def native_precision(device: torch.device) -> Precision:
    """The cheapest precision that the device multiplies in hardware; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"
    return "fp32"


def autocast(precision: Precision, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """A maker of autocast contexts; for fp32 they do nothing."""
    return lambda: torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def prepare(
    plan: Plan,
    generator: nn.Module,
    discriminator: nn.Module,
    recipe: RecipeConfig,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> TrainState:
    """Put a pair of networks on a device, laid out, compiled and with optimizers, as the plan says.

    Args:
        plan: how to execute.
        generator: changed in place (device, layout); its values stay.
        discriminator: likewise.
        recipe: objective and optimizer.
        device: where to run.
        wrap: applied to the network as it is called in training: DDP's place, outside of the compiled module.
    """
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    generator.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    discriminator.to(device=device, memory_format=layout)  # type: ignore[call-overload]

    def called(network: nn.Module) -> nn.Module:
        if plan.backend is None:
            return network
        # Shapes never change during training, so symbolic ones would only cost speed.
        return cast(nn.Module, torch.compile(network, backend=plan.backend, fullgraph=True, dynamic=False))

    def adam(network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(
            network.parameters(),
            lr=recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            fused=plan.fused_adam,
        )

    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler(device.type, enabled=plan.precision == "fp16")

    called_discriminator = called(discriminator)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        call_generator=wrap(called(generator)),
        call_discriminator=wrap(called_discriminator),
        call_frozen_discriminator=called_discriminator,
        optimizer_g=adam(generator),
        optimizer_d=adam(discriminator),
        scaler_g=scaler(),
        scaler_d=scaler(),
        autocast=autocast(plan.precision, device),
        objective=objective(recipe.objective, recipe.label_smoothing),
    )
