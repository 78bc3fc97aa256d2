"""How a step is executed on this machine, as data: precision, memory layout, compilation.

A plan never changes what is computed. `prepare` applies one to a pair of networks.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.execution import exact_sums
from fastdcgan.execution.accumulate import InParts
from fastdcgan.execution.allocator import keep_freed_memory
from fastdcgan.execution.stacked import Stacked
from fastdcgan.gan.models import Discriminator
from fastdcgan.gan.objectives import objective
from fastdcgan.gan.step import TrainState, apart, together
from fastdcgan.kernels import ends, fused_batch_norm, native, thin, winograd
from fastdcgan.storage.private import use_private_inductor_cache

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


KernelName = Literal["ends", "norm", "thin", "winograd"]

INSTALL: dict[KernelName, Callable[[nn.Module], int]] = {
    "ends": ends.install,
    "norm": fused_batch_norm.install,
    "thin": thin.install,
    "winograd": winograd.install,
}
"""Our own ways to do some of the layers, each a function that changes a network from outside."""

EXACT = ("fp32", (), None, True, 1)
"""Precision, kernels, backend, stacked and threads of plans with shares."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to carry out the step."""

    precision: Precision = "fp32"
    channels_last: bool = True
    backend: str | None = None
    """torch.compile's backend for both networks; None runs them eagerly."""

    capture: bool = False
    """The backend gets the whole iteration as one graph (`capture.py`), instead of the two networks."""

    fused_adam: bool = True

    stacked: bool = False
    """D sees real and fake pictures in one call, its BatchNorm still each by itself."""

    kernels: tuple[KernelName, ...] = ()
    """Which layers are done our own way instead of PyTorch's: CPU, channels last, not compiled."""

    shares: int = 0
    """Of the batch, in which every sum over it is taken, in one order for any number of ranks (`exact_sums.py`); 0: as
    is fastest."""

    keep_memory: bool = False
    """Whether the process keeps freed memory instead of handing it back to the system: for the rest of its life."""

    threads: int | None = None
    """For arithmetic on a CPU; None leaves them as they are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kernels", tuple(self.kernels))  # a list, where it was read from JSON
        if self.kernels and (not self.channels_last or self.backend):
            raise ValueError("our own kernels need channels-last memory and can't be compiled")
        if self.stacked and self.backend:
            raise ValueError("the stacked call is not for compiled plans")
        if self.shares and (self.precision, self.kernels, self.backend, self.stacked, self.threads) != EXACT:
            raise ValueError("exact sums are for the stacked call, PyTorch's own kernels, fp32 and one thread")

    def __str__(self) -> str:
        """A line for people, which names what departs from the usual: "bf16 + ends + norm + thin + winograd"."""
        ways = (
            "" if self.channels_last else "channels first",
            f"{'captured whole' if self.capture else 'compiled'} by {self.backend}" if self.backend else "",
            "" if self.fused_adam or self.capture else "plain Adam",
            "stacked" if self.stacked else "",
            *self.kernels,
            f"exact on up to {self.shares} ranks" if self.shares else "",
            "memory kept" if self.keep_memory else "",
            f"threads: {self.threads}" if self.threads else "",
        )
        return " + ".join((self.precision, *filter(None, ways)))


def choose_plan(request: ExecutionConfig, device: torch.device, world_size: int = 1) -> Plan:
    """Turn a request with its `auto`s into a plan for a device.

    Args:
        request: what the user asked for.
        device: where the step runs.
        world_size: processes that share each batch.

    Raises:
        ValueError: if the device can't do what was asked for.
    """
    if request.exact_ranks:
        if device.type != "cpu":
            raise ValueError(f"--exact-ranks {request.exact_ranks} is for CPUs: add --device cpu")
        if request.exact_ranks % world_size:
            raise ValueError(f"--exact-ranks {request.exact_ranks} is no multiple of the {world_size} processes")
        return Plan(shares=request.exact_ranks, stacked=True, threads=1, keep_memory=True)
    precision = request.precision
    if precision == "auto":
        precision = native_precision(device)
    if precision == "fp16" and device.type == "mps":
        raise ValueError("--precision fp16 needs a gradient scaler, which MPS has not: use fp32 or bf16")
    capture = request.compile == "step"
    compiled = capture or request.compile == "on" or (request.compile == "auto" and device.type == "cuda")
    if compiled and device.type == "cpu" and not has_cpp_compiler():
        raise ValueError(
            f"--compile {request.compile} needs a C++ compiler on the CPU: install g++ or set CXX, or use --compile off"
        )
    if capture and precision == "fp16":
        raise ValueError("--compile step has no gradient scaler, which fp16 needs: use --precision bf16 or fp32")
    return Plan(
        precision=precision,
        backend="inductor" if compiled else None,
        capture=capture,
        # Real and fake then cross together: a fourth of the times that processes wait for each other.
        stacked=world_size > 1 and device.type == "cpu" and not compiled,
        kernels=() if compiled else own_kernels(device, precision),
        keep_memory=device.type == "cpu",
    )


def own_kernels(device: torch.device, precision: Precision) -> tuple[KernelName, ...]:
    """Those of our kernels that are expected to be faster here.

    They are written for vectors of 512 bits, and know nothing of the matrix units that some processors have for bf16.
    """
    if device.type != "cpu" or precision == "fp16":
        return ()
    dtype, capabilities = _DTYPES[precision], torch.cpu.get_capabilities()
    suited = capabilities.get("avx512_f") and not (precision == "bf16" and capabilities.get("amx_bf16"))
    if suited and all(kernels.available(dtype) for kernels in (fused_batch_norm, thin, winograd)):
        return ("ends", "norm", "thin", "winograd")
    return ("ends",)


def has_cpp_compiler() -> bool:
    """Whether Inductor can build its CPU kernels here."""
    return native.compiler() is not None


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


def _as_it_is(network: nn.Module) -> nn.Module:
    return network


def prepare(
    plan: Plan,
    generator: nn.Module,
    discriminator: nn.Module,
    recipe: RecipeConfig,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = _as_it_is,
    gradients_cross_as: torch.dtype | None = None,
) -> TrainState:
    """Put a pair of networks on a device, laid out, compiled and with optimizers, as the plan says.

    Args:
        plan: how to execute.
        generator: changed in place (device, layout); its values stay.
        discriminator: likewise.
        recipe: objective and optimizer, and in how many parts to take a batch.
        device: where to run.
        wrap: applied to the network as it is called in training: DDP's place, outside of the compiled module. A
            captured step averages gradients by itself and is not wrapped.
        gradients_cross_as: how it does; None: as they are.
    """
    if plan.keep_memory:
        keep_freed_memory()
    if plan.backend == "inductor":
        use_private_inductor_cache()
    if plan.threads:
        torch.set_num_threads(plan.threads)
    if plan.capture:
        wrap = _as_it_is
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    generator.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    discriminator.to(device=device, memory_format=layout)  # type: ignore[call-overload]

    for network in (generator, discriminator):
        for name in plan.kernels:
            INSTALL[name](network)
        if plan.shares:
            exact_sums.install(network, plan.shares)

    def called(network: nn.Module) -> nn.Module:
        if plan.backend is None or plan.capture:
            return network
        # Shapes never change during training, so symbolic ones would only cost speed.
        return cast(nn.Module, torch.compile(network, backend=plan.backend, fullgraph=True, dynamic=False))

    def in_parts(network: nn.Module) -> nn.Module:
        return network if recipe.accumulate == 1 else InParts(network, recipe.accumulate)

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
    plain_objective = objective(recipe.objective, recipe.label_smoothing)
    return TrainState(
        generator=generator,
        discriminator=discriminator,
        call_generator=wrap(in_parts(called(generator))),
        call_discriminator=wrap(Stacked(cast(Discriminator, discriminator)) if plan.stacked else called_discriminator),
        judge=together if plan.stacked else apart,
        call_frozen_discriminator=called_discriminator,
        optimizer_g=adam(generator),
        optimizer_d=adam(discriminator),
        scaler_g=scaler(),
        scaler_d=scaler(),
        autocast=autocast(plan.precision, device),
        objective=exact_sums.exact_objective(plain_objective, plan.shares) if plan.shares else plain_objective,
        gradients_cross_as=gradients_cross_as,
        accumulate=recipe.accumulate,
    )
