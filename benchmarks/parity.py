"""Before a plan is timed: does it compute what the reference computes?

A narrow twin of the architecture takes one step from equal weights on equal inputs. The truth is the reference in fp64;
the plan may err as much as the reference in the plan's own precision errs, and half as much again. `tests/parity` asks
for far more; this is so that no number in a report can come from a step that is wrong.
"""

import functools

import torch
from torch import Tensor, nn

from benchmarks.conditions import device
from benchmarks.contenders import inputs, our_state, reference_networks
from fastdcgan import reference
from fastdcgan.architecture import Architecture, architecture
from fastdcgan.plan import Plan, autocast
from fastdcgan.step import train_step

WIDTHS = {"dcgan32": 16, "dcgan64": 8, "dcgan128": 4}
BATCH = 8
SLACK = 1.5
ROUNDING = 1e-5
"""An error below this is roundings, whatever the reference's is."""


@functools.cache
def parity_error(arch: Architecture, plan: Plan) -> float:
    """Relative error of a plan's losses, gradients or BatchNorm buffers after one step: the largest of the three.

    Raises:
        ValueError: it is larger than roundings explain.
    """
    narrow = architecture(arch.name, width=WIDTHS.get(arch.name))
    truth = _reference(narrow, Plan(), torch.float64)
    allowed = _reference(narrow, plan, torch.float32)
    found = _ours(narrow, plan)
    assert found.keys() == truth.keys(), found.keys() ^ truth.keys()
    errors = {}
    for kind in ("loss", "gradient", "buffer"):
        errors[kind] = _distance(found, truth, kind)
        bound = max(ROUNDING, SLACK * _distance(allowed, truth, kind))
        if not errors[kind] <= bound:
            raise ValueError(
                f"{plan}: not timed, because its {kind} for {arch.name} is off by {errors[kind]:.1e} "
                f"where roundings explain {bound:.1e}"
            )
    return max(errors.values())


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Distance over length, of the whole tensor."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


def _reference(arch: Architecture, plan: Plan, dtype: torch.dtype) -> dict[str, Tensor]:
    where = torch.device("cpu") if dtype == torch.float64 else device()
    G, D = (network.to(where, dtype) for network in reference_networks(arch))
    seen: dict[str, Tensor] = {}
    optimizer_g, optimizer_d = reference.adam(G), reference.adam(D)
    _watch(seen, "G", G, optimizer_g)
    _watch(seen, "D", D, optimizer_d)
    real_BCHW, z_BL = (tensor.to(dtype) for tensor in inputs(arch, BATCH, where))
    # Without autocast's cache, in which D's weights would go stale between the two phases.
    before = torch.is_autocast_cache_enabled()
    with autocast(plan.precision, where)():
        torch.set_autocast_cache_enabled(False)
        try:
            losses = reference.train_step(G, D, optimizer_g, optimizer_d, real_BCHW, z_BL)
        finally:
            torch.set_autocast_cache_enabled(before)
    return seen | _losses(losses["loss_d"], losses["loss_g"]) | _buffers(G, D)


def _ours(arch: Architecture, plan: Plan) -> dict[str, Tensor]:
    state = our_state(arch, plan, device())
    for network, twin in zip((state.generator, state.discriminator), reference_networks(arch), strict=True):
        network.load_state_dict(twin.state_dict())
    seen: dict[str, Tensor] = {}
    _watch(seen, "G", state.generator, state.optimizer_g)
    _watch(seen, "D", state.discriminator, state.optimizer_d)
    real_BCHW, z_BL = inputs(arch, BATCH, device())
    layout = torch.channels_last if plan.channels_last else torch.contiguous_format
    metrics = train_step(state, real_BCHW.contiguous(memory_format=layout), z_BL)
    return seen | _losses(metrics.loss_d, metrics.loss_g) | _buffers(state.generator, state.discriminator)


def _watch(seen: dict[str, Tensor], label: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Keep the gradients that the optimizer is given."""

    def remember(*_: object) -> None:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{label}.{name} is updated without a gradient"
            seen[f"gradient {label}.{name}"] = parameter.grad.detach().clone().cpu()

    optimizer.register_step_pre_hook(remember)


def _losses(loss_d: Tensor, loss_g: Tensor) -> dict[str, Tensor]:
    return {"loss D": loss_d.cpu(), "loss G": loss_g.cpu()}


def _buffers(G: nn.Module, D: nn.Module) -> dict[str, Tensor]:
    return {
        f"buffer {label}.{name}": buffer.detach().cpu()
        for label, network in (("G", G), ("D", D))
        for name, buffer in network.named_buffers()
        if buffer.is_floating_point()
    }


def _distance(found: dict[str, Tensor], truth: dict[str, Tensor], kind: str) -> float:
    """Relative error of all tensors of a kind, taken as one long vector."""
    names = [name for name in truth if name.startswith(kind)]
    return relative_error(
        torch.cat([found[name].double().flatten() for name in names]),
        torch.cat([truth[name].double().flatten() for name in names]),
    )
