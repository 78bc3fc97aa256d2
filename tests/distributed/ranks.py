"""Processes of a gloo group that train together, as `trainer.py` sets them up, on the inputs that one would have."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import forked
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from twins import CPU, PAPERS, draws, inputs, labels, moments, own_name, reference_twin

from fastdcgan.config import ExecutionConfig, RecipeConfig
from fastdcgan.data.order import rank_share
from fastdcgan.distributed.accelerator import Accelerator, join, wrap
from fastdcgan.execution.plan import Plan
from fastdcgan.execution.prepare import prepare, step_function
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.spectral import build_for
from fastdcgan.gan.step import TrainState, penalise
from fastdcgan.kernels import sync_batch_norm

ALONE = ExecutionConfig(device="cpu", threads=1)
"""Each process on a core of its own."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Some steps of a network that begins as the reference does."""

    arch: Architecture
    plan: Plan
    steps: int
    batch: int
    """The global one."""
    double: bool = False
    batch_norm: str = "sync"
    compressed: bool = False
    recipe: RecipeConfig = PAPERS

    @property
    def images_a_step(self) -> int:
        return self.batch * self.recipe.d_steps


Result = dict[str, Tensor]
"""The losses [steps] and, at the end, every number of the networks and Adam's means."""


def begin(work: Training, ranks: int, around: Callable[[nn.Module], nn.Module]) -> TrainState:
    start = reference_twin(work.arch, work.recipe)
    G, D = build_for(work.recipe, work.arch, seed=0)
    for network, twin in ((G, start.G), (D, start.D)):
        network.load_state_dict({own_name(name): tensor for name, tensor in twin.state_dict().items()})
        if work.double:
            network.double()
        if work.batch_norm == "sync":
            sync_batch_norm.install(network, ranks)
    cross_as = torch.bfloat16 if work.compressed else None
    return prepare(work.plan, G, D, work.recipe, CPU, wrap=around, all_reduce_dtype=cross_as)


def share(tensor: Tensor, work: Training, rank: int, ranks: int) -> Tensor:
    parts = work.recipe.d_steps * work.recipe.accumulate
    mine = tensor[torch.from_numpy(rank_share(len(tensor), rank, ranks, parts))]
    return mine.double() if work.double and mine.is_floating_point() else mine


def train(work: Training, accelerator: Accelerator | None = None) -> Result:
    """Train as one of several ranks; without an accelerator, alone."""
    rank, ranks = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    state = begin(
        work,
        ranks,
        partial(wrap, accelerator, in_one_order=work.plan.shares > 0) if accelerator else lambda network: network,
    )
    step = step_function(work.plan, state)
    layout = torch.channels_last if work.plan.channels_last else torch.contiguous_format
    losses = []
    for number in range(work.steps):
        whole = inputs(work.arch, number, work.images_a_step)
        drawn = draws(whole[1]) if work.recipe.augmentation() else None, labels(work.arch, whole[1])
        real_BCHW, *others = (
            None if tensor is None else share(tensor, work, rank, ranks) for tensor in (*whole, *drawn)
        )
        real_BCHW = real_BCHW.contiguous(memory_format=layout)
        metrics = step(real_BCHW, *others)
        penalise(state, number + 1, real_BCHW, *others)
        both = torch.stack([metrics.loss_d, metrics.loss_g])
        losses.append(accelerator.reduce(both, "mean") if accelerator else both)
    means = moments(("G", state.generator, state.optimizer_g), ("D", state.discriminator, state.optimizer_d))
    of_adam = {f"mean.{name}": tensor.contiguous() for name, tensor in means.items()}
    return {"losses": torch.stack(losses), **all_numbers(state.generator, state.discriminator), **of_adam}


def all_numbers(G: nn.Module, D: nn.Module) -> Result:
    return {
        f"{label}.{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
        for label, network in (("G", G), ("D", D))
        for name, tensor in network.state_dict().items()
    }


def on_ranks(
    ranks: int, function: Callable[..., Any], *arguments: object, request: ExecutionConfig = ALONE
) -> list[Any]:
    """function(accelerator, *arguments) in as many processes, joined; what each of them returned."""
    forked.start_server()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            _as_rank,
            (forked.environments(ranks), folder, request, function, arguments),
            nprocs=ranks,
            start_method="forkserver",
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(ranks)]


def _as_rank(
    rank: int,
    environments: list[dict[str, str]],
    folder: str,
    request: ExecutionConfig,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    os.environ |= environments[rank]
    torch.set_num_threads(1)
    accelerator = join(request)
    torch.save(function(accelerator, *arguments), Path(folder) / f"{rank}.pt")
    if torch.distributed.is_initialized():  # a whole run has left it already
        torch.distributed.destroy_process_group()


def train_all(accelerator: Accelerator, works: dict[str, Training]) -> dict[str, Result]:
    return {name: train(work, accelerator) for name, work in works.items()}
