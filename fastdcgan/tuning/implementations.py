"""Implementations of the training step to compare: the reference or a plan, with its own networks and optimizers.

The only module that uses `reference.py`: plans are compared with it before one is chosen.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan, Precision
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import Architecture, ConvSpec
from fastdcgan.gan.augment import NUMBERS
from fastdcgan.gan.randomness import Stream, uniform
from fastdcgan.gan.spectral import build_for

PAPERS = RecipeConfig()
"""The recipe that plans are compared in, unless another is given."""

_HALF_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}

# Of fp16's gradient scalers: no gradient overflows at it. Their initial scale of 2**16 would make them skip first
# steps.
_LOSS_SCALE = 128.0

# Adam's step count in a `StartState`: so large that its bias corrections are nearly 1.
_ADAM_STEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """Networks, optimizers and a function that takes a training step with them."""

    generator: nn.Module
    discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer

    step: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    """(real_BCHW, z_BL) to the scalars loss_d, loss_g, d_real and d_fake."""

    def reset_to(self, start: "StartState") -> None:
        """Set weights and Adam's state to those of a start. Tensors that exist are changed in place."""
        for network, optimizer, weights, second_moments in (
            (self.generator, self.optimizer_g, start.generator, start.second_moments_g),
            (self.discriminator, self.optimizer_d, start.discriminator, start.second_moments_d),
        ):
            # The reference's parametrized layers name the same tensors, in the same order, otherwise.
            network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))
            for parameter, second_moment in zip(network.parameters(), second_moments, strict=True):
                if not optimizer.state[parameter]:
                    optimizer.state[parameter] = {
                        "step": torch.zeros((), device=parameter.device),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }
                state = optimizer.state[parameter]
                state["step"].fill_(_ADAM_STEPS)
                state["exp_avg"].zero_()
                state["exp_avg_sq"].fill_(second_moment)


@dataclass(frozen=True, kw_only=True)
class StartState:
    """The state before a step: weights, and Adam's second moments, one number a parameter. First moments are 0."""

    generator: dict[str, Tensor]
    discriminator: dict[str, Tensor]
    second_moments_g: list[float]
    second_moments_d: list[float]

    @classmethod
    def create(cls, arch: Architecture, device: torch.device, recipe: RecipeConfig = PAPERS) -> "StartState":
        """Initial weights. The second moments are the gradients' mean squares, from a step of the reference."""
        generator, discriminator = build_for(recipe, arch, seed=0)
        weights = generator.state_dict(), discriminator.state_dict()
        implementation = reference_implementation(arch, device, recipe)
        for network, own in zip((implementation.generator, implementation.discriminator), weights, strict=True):
            network.load_state_dict(dict(zip(network.state_dict(), own.values(), strict=True)))
        implementation.step(*random_batch(arch, 4 * recipe.d_steps, device))

        def second_moments(network: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
            (group,) = optimizer.param_groups
            return [
                optimizer.state[parameter]["exp_avg_sq"].mean().item() / (1 - group["betas"][1])
                for parameter in network.parameters()
            ]

        return cls(
            generator=weights[0],
            discriminator=weights[1],
            second_moments_g=second_moments(implementation.generator, implementation.optimizer_g),
            second_moments_d=second_moments(implementation.discriminator, implementation.optimizer_d),
        )


def reference_implementation(
    arch: Architecture,
    device: torch.device,
    recipe: RecipeConfig = PAPERS,
    *,
    precision: Precision = "fp32",
    dtype: torch.dtype = torch.float32,
) -> Implementation:
    """The reference, unchanged.

    Args:
        arch: the networks.
        device: where to run.
        recipe: how the networks learn; Adam's betas are the paper's.
        precision: bf16 and fp16 are autocast around its whole step, without autocast's cache of weights: in this one
            context the cache would hold D's weights from before its update.
        dtype: of the networks; fp64 is the ground truth for errors.
    """
    with torch.random.fork_rng(devices=[]):  # PyTorch's own default initialisation draws from it
        first, *others = _layers(arch.generator)
        first = (arch.latent_dim, *first[1:])  # the reference itself widens it for classes
        G = reference.Generator([first, *others], len(arch.classes))
        D = reference.Discriminator(_layers(arch.discriminator), len(arch.classes))
        reference.initialise(G)
        reference.initialise(D)
        if recipe.spectral_norm:
            reference.normalise_spectrally(D)
        if recipe.lecam:
            D.register_buffer("anchors", torch.zeros(2))
    G.to(device=device, dtype=dtype)
    D.to(device=device, dtype=dtype)
    optimizer_g, optimizer_d = reference.adam(G, recipe.lr_g or recipe.lr), reference.adam(D, recipe.lr_d or recipe.lr)
    options = reference_options(recipe)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        with torch.autocast(
            device.type,
            _HALF_PRECISIONS.get(precision, torch.bfloat16),
            enabled=precision in _HALF_PRECISIONS,
            cache_enabled=False,
        ):
            inputs = real_BCHW.to(dtype), z_BL.to(dtype)
            return reference.train_step(
                *(G, D, optimizer_g, optimizer_d, *inputs),
                **options,
                uniform_BN=_draws(z_BL),
                anchors_2=dict(D.named_buffers()).get("anchors"),
                labels_B=_labels(arch, z_BL),
            )

    return Implementation(generator=G, discriminator=D, optimizer_g=optimizer_g, optimizer_d=optimizer_d, step=step)


def reference_options(recipe: RecipeConfig) -> dict[str, Any]:
    """What a recipe means to `reference.train_step`."""
    return {
        "objective": recipe.objective,
        "label_smoothing": recipe.label_smoothing,
        "d_steps": recipe.d_steps,
        "augmentation": recipe.augmentation(),
        "lecam": recipe.lecam,
    }


def plan_implementation(
    plan: Plan, arch: Architecture, device: torch.device, recipe: RecipeConfig = PAPERS
) -> Implementation:
    """The package's own step, executed as a plan says. The plan's threads are set during its steps only."""
    with _num_threads(plan.threads):
        state = prepare(plan, *build_for(recipe, arch, seed=0), recipe, device)
    for scaler in (state.scaler_g, state.scaler_d):
        if scaler.is_enabled():
            scaler.load_state_dict({**scaler.state_dict(), "scale": _LOSS_SCALE})

    take_step = step_function(plan, state)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        # Pictures in the plan's layout are not copied.
        with _num_threads(plan.threads):
            drawn = _draws(z_BL) if recipe.augmentation() else None, _labels(arch, z_BL)
            return take_step(real_BCHW.contiguous(memory_format=layout), z_BL, *drawn)._asdict()

    return Implementation(
        generator=state.generator,
        discriminator=state.discriminator,
        optimizer_g=state.optimizer_g,
        optimizer_d=state.optimizer_d,
        step=step,
    )


@contextmanager
def _num_threads(count: int | None) -> Iterator[None]:
    """Within this context PyTorch uses this many threads; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _draws(z_BL: Tensor) -> Tensor:
    """The augmentation's random numbers, the same for all implementations."""
    return uniform(0, Stream.AUGMENT, 0, len(z_BL), 2 * NUMBERS).to(z_BL.device)


def _labels(arch: Architecture, z_BL: Tensor) -> Tensor | None:
    """All classes in turn; None where there are none."""
    return torch.arange(len(z_BL), device=z_BL.device) % len(arch.classes) if arch.classes else None


def random_batch(arch: Architecture, batch: int, device: torch.device, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Uniform random pictures in [-1, 1] and standard normal noise: real_BCHW, contiguous, and z_BL, fp32."""
    rng = torch.Generator().manual_seed(seed)
    real_BCHW = torch.rand(batch, arch.channels, *arch.resolution, generator=rng) * 2 - 1
    return real_BCHW.to(device), torch.randn(batch, arch.latent_dim, generator=rng).to(device)


def _layers(specs: tuple[ConvSpec, ...]) -> list[reference.Layer]:
    # The reference's own tables lack some geometries, such as dcgan28 in colour. Tests compare those that it has.
    return [(spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.padding) for spec in specs]
