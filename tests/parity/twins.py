"""The fast path and its twin in `reference.py`, begun from the same weights and fed the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from fastdcgan.config import ObjectiveName, RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import models, reference
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.step import TrainState

CPU = torch.device("cpu")

ARCHITECTURES = ("dcgan28", "dcgan32", "dcgan64", "dcgan128")

# Narrow twins of the same depth: the geometry is what is tested, and width costs time squared.
WIDTHS = {"dcgan28": 32, "dcgan32": 8, "dcgan64": 8, "dcgan128": 4}

BATCH = 8


def narrow(name: str) -> Architecture:
    return architecture(name, width=WIDTHS[name])


def reference_layers(arch: Architecture) -> tuple[list[reference.Layer], list[reference.Layer]]:
    """The reference's own tables for an architecture, not the fast path's."""
    if arch.name == "dcgan28":
        return reference.layers_28()
    if arch.name == "dcgan64":
        return reference.layers_64(arch.channels, arch.width, arch.latent_dim)
    return reference.layers_of_size(*arch.resolution, arch.channels, arch.width, arch.latent_dim)


@dataclass
class Twin:
    """One implementation: its networks and its step, and the gradients with which they were last updated."""

    G: nn.Module
    D: nn.Module
    step: Callable[[Tensor, Tensor], dict[str, Tensor]]
    gradients: dict[str, Tensor]
    state: TrainState | None = None


def reference_twin(
    arch: Architecture, objective: ObjectiveName = "bce", label_smoothing: float = 0.0, autocast: bool = False
) -> Twin:
    generator_layers, discriminator_layers = reference_layers(arch)
    G, D = reference.Generator(generator_layers), reference.Discriminator(discriminator_layers)
    torch.manual_seed(1)
    reference.initialise(G)
    reference.initialise(D)
    optimizer_g, optimizer_d = reference.adam(G), reference.adam(D)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        # Without its cache, in which D's weights would go stale between the two phases.
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
            return reference.train_step(G, D, optimizer_g, optimizer_d, real_BCHW, z_BL, objective, label_smoothing)

    return Twin(G, D, step, watch(("G", G, optimizer_g), ("D", D, optimizer_d)))


def plan_twin(
    arch: Architecture, start: Twin, plan: Plan, objective: ObjectiveName = "bce", label_smoothing: float = 0.0
) -> Twin:
    """The fast path as `trainer.py` builds it, from the weights of another twin."""
    G, D = models.build(arch, seed=0)
    G.load_state_dict(start.G.state_dict())
    D.load_state_dict(start.D.state_dict())
    recipe = RecipeConfig(objective=objective, label_smoothing=label_smoothing)
    state = prepare(plan, G, D, recipe, CPU)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    take_step = cache(lambda: step_function(plan, state))  # only when called: a test may change the precision first
    networks = (("G", G, state.optimizer_g), ("D", D, state.optimizer_d))
    gradients = {} if plan.capture else watch(*networks)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        before = moments(*networks) if plan.capture else {}
        metrics = take_step()(real_BCHW.contiguous(memory_format=layout), z_BL)
        if plan.capture:  # there is no .grad: what Adam's running mean took in
            for name, mean in moments(*networks).items():
                beta1 = state.optimizer_g.param_groups[0]["betas"][0]
                gradients[name] = (mean - beta1 * before.get(name, torch.zeros(()))) / (1 - beta1)
        return metrics._asdict()

    return Twin(G, D, step, gradients, state)


def moments(*networks: tuple[str, nn.Module, torch.optim.Optimizer], key: str = "exp_avg") -> dict[str, Tensor]:
    """A copy of one kind of Adam's running means, by the parameter's name; nothing before the first step."""
    return {
        f"{label}.{name}": optimizer.state[parameter][key].clone()
        for label, network, optimizer in networks
        for name, parameter in network.named_parameters()
        if parameter in optimizer.state
    }


def watch(*pairs: tuple[str, nn.Module, torch.optim.Optimizer]) -> dict[str, Tensor]:
    """A dictionary that holds, after every step, the gradients that each optimizer was given."""
    seen: dict[str, Tensor] = {}

    def register(label: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        def remember(*_: object) -> None:
            for name, parameter in network.named_parameters():
                assert parameter.grad is not None, f"{label}.{name} is updated without a gradient"
                seen[f"{label}.{name}"] = parameter.grad.clone()

        optimizer.register_step_pre_hook(remember)

    for pair in pairs:
        register(*pair)
    return seen


def inputs(arch: Architecture, step: int = 0, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Real pictures and noise for a step, the same for all twins."""
    rng = torch.Generator().manual_seed(100 + step)
    real_BCHW = torch.rand(batch, arch.channels, *arch.resolution, generator=rng) * 2 - 1
    return real_BCHW, torch.randn(batch, arch.latent_dim, generator=rng)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Distance over length, of the whole tensor: one number that no single tiny element can dominate."""
    length = wanted.double().norm().item()
    return (found.double() - wanted.double()).norm().item() / max(length, 1e-12)


def numbers(twin: Twin) -> dict[str, Tensor]:
    """All that a twin is made of: parameters and BatchNorm buffers."""
    return {
        f"{label}.{name}": tensor
        for label, network in (("G", twin.G), ("D", twin.D))
        for name, tensor in network.state_dict().items()
    }


def errors(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of every tensor, by name. The names must be the same."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    return {name: relative_error(found[name], wanted[name]) for name in wanted}


def worst(by_name: dict[str, float]) -> tuple[float, str]:
    name = max(by_name, key=lambda key: by_name[key])
    return by_name[name], name
