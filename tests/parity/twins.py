"""The fast path and its twin in `reference.py`, begun from the same weights and fed the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import count

import torch
from recorded import RecordedGraph
from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan import reference
from fastdcgan.gan.architecture import Architecture, architecture
from fastdcgan.gan.augment import NUMBERS
from fastdcgan.gan.randomness import Stream, uniform
from fastdcgan.gan.spectral import build_for
from fastdcgan.gan.step import TrainState, penalise

CPU = torch.device("cpu")

ARCHITECTURES = ("dcgan28", "dcgan32", "dcgan48", "dcgan64", "dcgan128", "dcgan64x128")

# Narrow twins of the same depth: the geometry is what is tested, and width costs time squared.
WIDTHS = {"dcgan28": 32, "dcgan128": 4, "dcgan64x128": 4}

BATCH = 8

PAPERS = RecipeConfig()


def narrow(name: str) -> Architecture:
    return architecture(name, width=WIDTHS.get(name, 8))


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
    batch: int = BATCH
    """Pictures a step."""


def reference_twin(arch: Architecture, recipe: RecipeConfig = PAPERS, autocast: bool = False) -> Twin:
    generator_layers, discriminator_layers = reference_layers(arch)
    classes = len(arch.classes)
    G, D = reference.Generator(generator_layers, classes), reference.Discriminator(discriminator_layers, classes)
    torch.manual_seed(1)
    reference.initialise(G)
    reference.initialise(D)
    if recipe.spectral_norm:
        reference.normalise_spectrally(D)
    optimizer_g, optimizer_d = reference.adam(G, recipe.lr_g or recipe.lr), reference.adam(D, recipe.lr_d or recipe.lr)
    options = {"objective": recipe.objective, "label_smoothing": recipe.label_smoothing, "d_steps": recipe.d_steps}
    options["augmentation"] = recipe.augmentation()
    if recipe.lecam:
        D.register_buffer("anchors", torch.zeros(2))
    taken = count(1)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        # Without its cache, in which D's weights would go stale between the two phases.
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast, cache_enabled=False):
            drawn_BN, labels_B = draws(z_BL), labels(arch, z_BL)
            if recipe.lecam:
                options.update(lecam=recipe.lecam, anchors_2=D.anchors)
            metrics = reference.train_step(
                G, D, optimizer_g, optimizer_d, real_BCHW, z_BL, **options, uniform_BN=drawn_BN, labels_B=labels_B
            )
        if (recipe.r1 or recipe.r2) and next(taken) % recipe.r1_every == 0:
            last_bCHW, z_bL, numbers_bN = (t.chunk(recipe.d_steps)[-1] for t in (real_BCHW, z_BL, drawn_BN))
            labels_b = None if labels_B is None else labels_B.chunk(recipe.d_steps)[-1]
            fake_bCHW = G(z_bL, labels_b).detach() if recipe.r2 else last_bCHW
            seen = as_reference_sees(last_bCHW, fake_bCHW, numbers_bN, recipe)
            reference.penalty_step(D, optimizer_d, *seen, recipe.r1, recipe.r2, recipe.r1_every, labels_b)
        return metrics

    networks = ("G", G, optimizer_g), ("D", D, optimizer_d)
    return Twin(G, D, step, watch(*networks), batch=BATCH * recipe.d_steps)


def as_reference_sees(real_BCHW: Tensor, fake_BCHW: Tensor, draws_BN: Tensor, recipe: RecipeConfig) -> list[Tensor]:
    """Real and fake pictures, changed by a step's random numbers."""
    sides = zip((real_BCHW, fake_BCHW), draws_BN.chunk(2, dim=1), strict=True)
    names = recipe.augmentation()
    return [reference.augment(side_BCHW, numbers_BN, names) if names else side_BCHW for side_BCHW, numbers_BN in sides]


def plan_twin(arch: Architecture, start: Twin, plan: Plan, recipe: RecipeConfig = PAPERS) -> Twin:
    """The fast path as `trainer.py` builds it, from the weights of another twin."""
    G, D = build_for(recipe, arch, seed=0)
    for network, begun in ((G, start.G), (D, start.D)):
        network.load_state_dict({own_name(name): tensor for name, tensor in begun.state_dict().items()})
    state = prepare(plan, G, D, recipe, CPU)
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    taken = count(1)
    take_step = cache(
        lambda: step_function(plan, state, None if plan.kernels else RecordedGraph)
    )  # only when called: a test may change the precision first
    networks = (("G", G, state.optimizer_g), ("D", D, state.optimizer_d))
    whole = plan.capture or plan.replay
    gradients = {} if whole else watch(*networks)

    def step(real_BCHW: Tensor, z_BL: Tensor) -> dict[str, Tensor]:
        before = moments(*networks) if whole else {}
        drawn = z_BL, draws(z_BL) if recipe.augmentation() else None, labels(arch, z_BL)
        real_BCHW = real_BCHW.contiguous(memory_format=layout)
        metrics = take_step()(real_BCHW, *drawn)
        penalise(state, next(taken), real_BCHW, *drawn)
        if whole:  # no optimizer's hook runs: what Adam's running mean took in
            # Of several updates of D the running mean doesn't tell the last one's gradient.
            for name, mean in moments(*(networks if recipe.d_steps == 1 else networks[:1])).items():
                beta1 = state.optimizer_g.param_groups[0]["betas"][0]
                gradients[name] = (mean - beta1 * before.get(name, torch.zeros(()))) / (1 - beta1)
        return metrics._asdict()

    return Twin(G, D, step, gradients, state, BATCH * recipe.d_steps)


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
                seen[f"{label}.{own_name(name)}"] = parameter.grad.clone()

        optimizer.register_step_pre_hook(remember)

    for pair in pairs:
        register(*pair)
    return seen


def inputs(arch: Architecture, step: int = 0, batch: int = BATCH) -> tuple[Tensor, Tensor]:
    """Real pictures and noise for a step, the same for all twins."""
    rng = torch.Generator().manual_seed(100 + step)
    real_BCHW = torch.rand(batch, arch.channels, *arch.resolution, generator=rng) * 2 - 1
    return real_BCHW, torch.randn(batch, arch.latent_dim, generator=rng)


def draws(z_BL: Tensor) -> Tensor:
    """The augmentation's random numbers for a step with this noise, the same for all twins."""
    place = int(z_BL[0, 0].abs().item() * 1e6)
    return uniform(0, Stream.AUGMENT, place, len(z_BL), 2 * NUMBERS)


def labels(arch: Architecture, z_BL: Tensor) -> Tensor | None:
    """The classes of a step with this noise, the same for all twins; None where there are none."""
    return (z_BL[:, 0].abs() * 1e4).long() % len(arch.classes) if arch.classes else None


def own_name(name: str) -> str:
    """Of a tensor of the reference, whose parametrized layers name it otherwise."""
    for theirs, ours in {"weight.original": "weight", "weight.0._u": "left", "weight.0._v": "right"}.items():
        name = name.replace(f"parametrizations.{theirs}", ours)
    return name


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Distance over length, of the whole tensor: one number that no single tiny element can dominate."""
    length = wanted.double().norm().item()
    return (found.double() - wanted.double()).norm().item() / max(length, 1e-12)


def numbers(twin: Twin) -> dict[str, Tensor]:
    """All that a twin is made of: parameters and BatchNorm buffers."""
    return {
        f"{label}.{own_name(name)}": tensor
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
