"""Who is compared: a plan, or the reference, with networks and optimizers of its own and a step to take.

The one place outside of tests where `reference.py` is used: a plan is chosen by how it compares with it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models, reference
from fastdcgan.gan.architecture import Architecture, ConvSpec

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Nothing overflows at this scale. The scaler's own first one would have the first steps skipped until it has found one.
_SCALE = 128.0

# As many that Adam's bias corrections are out of the way.
_STEPS_BEFORE = 10_000


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Something that can take a training step."""

    generator: nn.Module
    discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer

    step: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    """Takes real_BCHW and z_BL; returns loss_d, loss_g, d_real and d_fake, scalars."""

    def begin(self, start: "Start") -> None:
        """Go to a start. All that is there already is changed in place."""
        for network, optimizer, values, sizes in (
            (self.generator, self.optimizer_g, start.generator, start.sizes_g),
            (self.discriminator, self.optimizer_d, start.discriminator, start.sizes_d),
        ):
            network.load_state_dict(values)
            for parameter, size in zip(network.parameters(), sizes, strict=True):
                if not optimizer.state[parameter]:
                    optimizer.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
                state = optimizer.state[parameter]
                state["step"].fill_(_STEPS_BEFORE)
                state["exp_avg"].zero_()
                state["exp_avg_sq"].fill_(size)


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a step is taken from: weights, and Adam's second moments, one number a parameter; its first ones are 0."""

    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    sizes_g: list[float]
    sizes_d: list[float]

    @classmethod
    def of(cls, arch: Architecture, device: torch.device) -> "Start":
        """Fresh weights, with second moments of the size that gradients have there: the reference takes a step."""
        generator, discriminator = models.build(arch, seed=0)
        weights = generator.state_dict(), discriminator.state_dict()
        twin = the_reference(arch, device)
        twin.generator.load_state_dict(weights[0])
        twin.discriminator.load_state_dict(weights[1])
        twin.step(*inputs(arch, 4, device))

        def sizes(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
            (group,) = optimizer.param_groups
            return [
                optimizer.state[parameter]["exp_avg_sq"].mean().item() / (1 - group["betas"][1])
                for parameter in network.parameters()
            ]

        return cls(
            generator=weights[0],
            discriminator=weights[1],
            sizes_g=sizes(twin.generator, twin.optimizer_g),
            sizes_d=sizes(twin.discriminator, twin.optimizer_d),
        )


def the_reference(
    arch: Architecture,
    device: torch.device,
    *,
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float32,
) -> Contender:
    """The reference as it stands.

    Args:
        arch: the networks.
        device: where to run.
        precision: bf16 and fp16 are autocast around its whole step, without autocast's cache of weights: in one
            context over both phases that would hand G the D from before its update.
        dtype: of the networks; fp64 makes it the truth to measure errors from.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch's own default initialisation draws from it
        G, D = reference.Generator(_layers(arch.generator)), reference.Discriminator(_layers(arch.discriminator))
        reference.initialise(G)
        reference.initialise(D)
    G.to(device=device, dtype=dtype)
    D.to(device=device, dtype=dtype)
    optimizer_g, optimizer_d = reference.adam(G), reference.adam(D)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        with torch.autocast(
            device.type, _HALF.get(precision, torch.bfloat16), enabled=precision in _HALF, cache_enabled=False
        ):
            return reference.train_step(G, D, optimizer_g, optimizer_d, real_BCHW.to(dtype), z_BL.to(dtype))

    return Contender(generator=G, discriminator=D, optimizer_g=optimizer_g, optimizer_d=optimizer_d, step=step)


def the_plan(plan: Plan, arch: Architecture, device: torch.device) -> Contender:
    """The package's own step, executed as a plan says. The process's threads are the plan's only during a step."""
    with _threads(plan.threads):
        state = prepare(plan, *models.build(arch, seed=0), RecipeConfig(), device)
    for scaler in (state.scaler_g, state.scaler_d):
        if scaler.is_enabled():
            scaler.load_state_dict({**scaler.state_dict(), "scale": _SCALE})

    take_step = step_function(plan, state)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        # Pictures that lie as the plan wants them already are not copied.
        with _threads(plan.threads):
            return take_step(real_BCHW.contiguous(memory_format=layout), z_BL)._asdict()

    return Contender(
        generator=state.generator,
        discriminator=state.discriminator,
        optimizer_g=state.optimizer_g,
        optimizer_d=state.optimizer_d,
        step=step,
    )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """As many threads for a while; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def inputs(arch: Architecture, batch: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Made-up pictures in [-1, 1] and noise: real_BCHW, contiguous, and z_BL."""
    rng = torch.Generator().manual_seed(seed)
    real_BCHW = torch.rand(batch, arch.channels, arch.resolution, arch.resolution, generator=rng) * 2 - 1
    return real_BCHW.to(device), torch.randn(batch, arch.latent_dim, generator=rng).to(device)


def _layers(specs: tuple[ConvSpec, ...]) -> list[reference.Layer]:
    # The reference's tables lack some geometries, such as dcgan28 in colour; that those it has are ours is tested.
    return [(spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.padding) for spec in specs]
