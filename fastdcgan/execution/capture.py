"""The whole training iteration as one graph: both losses, both gradients, both Adam updates, BatchNorm's statistics.

A fast GPU finishes an operator of this network sooner than Python can launch the next. One graph of everything can be
replayed without launches (CUDA graphs). It computes what `step.train_step` does. What that keeps in networks and
optimizers is where it was, changed in place, so that a checkpoint can't tell which of the two wrote it.
"""

import copy
import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as collectives
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdcgan.execution.accumulate import probability, train_step_in_parts
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.ranges import CAPTURED_STEP, profiler_range
from fastdcgan.gan.step import StepMetrics, TrainState, discriminator_loss, generator_loss, train_step

TakeStep = Callable[[Tensor, Tensor], StepMetrics]
"""(real_BCHW, z_BL) -> figures: `train_step` of some state."""


def step_function(plan: Plan, state: TrainState) -> TakeStep:
    """How to take a step with what `plan.prepare` prepared: as one graph, or operator by operator."""
    if plan.capture:
        assert plan.backend is not None, plan
        return CapturedStep(state, plan.backend)
    return partial(train_step if state.accumulate == 1 else train_step_in_parts, state)


class Adam(NamedTuple):
    """Adam's state of one network, a tensor a parameter, as torch.optim.Adam keeps it; the steps on the device too."""

    steps: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]


class CapturedStep:
    """`train_step` of a state, as one graph. It is compiled when first called: minutes where Inductor is the backend.

    Shapes and the optimizers' hyperparameters are constants of the graph. Where several processes have joined,
    gradients are averaged over them in the graph, one bucket a network.

    Args:
        state: changed in place by each call. Its networks must not be wrapped for DDP.
        backend: torch.compile's.
    """

    def __init__(self, state: TrainState, backend: str | Callable[..., object]) -> None:
        assert not state.scaler_d.is_enabled() and not state.scaler_g.is_enabled(), "fp16 is not for capture"
        self._state = state
        self._generator = _without_counters(state.generator)
        self._discriminator = _without_counters(state.discriminator)
        self._counters = (
            _Counter(state.generator, passes=state.accumulate),
            _Counter(state.discriminator, passes=3 * state.accumulate),
        )
        on_cuda = next(state.generator.parameters()).device.type == "cuda"
        self._graph = torch.compile(
            self._iteration,
            backend=backend,
            fullgraph=True,
            dynamic=False,
            mode="reduce-overhead" if on_cuda and backend == "inductor" else None,
        )
        # The next replay of a CUDA graph overwrites what the last one returned.
        self._kept: Callable[[Tensor], Tensor] = torch.clone if on_cuda else lambda figures: figures

    def __call__(self, real_BCHW: Tensor, z_BL: Tensor) -> StepMetrics:
        """Take a step; `train_step` says what it means."""
        adam_g, adam_d = _adam(self._state.optimizer_g), _adam(self._state.optimizer_d)
        # lets autograd.grad into the graph
        with torch._dynamo.config.patch(trace_autograd_ops=True), profiler_range(CAPTURED_STEP):
            figures = self._graph(real_BCHW, z_BL, adam_g, adam_d)
        for counter in self._counters:
            counter.steps += 1
        return StepMetrics(*self._kept(figures).unbind())

    def _iteration(self, real_BCHW: Tensor, z_BL: Tensor, adam_g: Adam, adam_d: Adam) -> Tensor:
        """`train_step`, or `train_step_in_parts`, in operators that trace. Returns its figures [4]."""
        G, D, state = self._generator, self._discriminator, self._state
        with state.autocast():
            fakes = [G(z_bL) for z_bL in z_BL.chunk(state.accumulate)]
        of_d, of_g, figures = [], [], []
        for real_bCHW, fake_bCHW in zip(real_BCHW.chunk(state.accumulate), fakes, strict=True):
            with state.autocast():
                loss_d, *logits = discriminator_loss(D, real_bCHW, fake_bCHW.detach(), state.objective)
            of_d.append(torch.autograd.grad(loss_d, list(D.parameters())))
            figures.append([loss_d.detach().float(), *map(probability, logits)])
        _update(of_d, D, adam_d, state.optimizer_d, state.all_reduce_dtype)
        for fake_bCHW, of_part in zip(fakes, figures, strict=True):
            with state.autocast():  # another one: it casts D's weights anew
                loss_g = generator_loss(D, fake_bCHW, state.objective)
            of_g.append(torch.autograd.grad(loss_g, list(G.parameters())))
            of_part.insert(1, loss_g.detach().float())
        _update(of_g, G, adam_g, state.optimizer_g, state.all_reduce_dtype)
        return torch.stack([torch.stack(of_part) for of_part in figures]).mean(0)


def _update(
    of_parts: list[tuple[Tensor, ...]],
    network: nn.Module,
    adam: Adam,
    optimizer: torch.optim.Optimizer,
    all_reduce_dtype: torch.dtype | None,
) -> None:
    """One Adam step (Kingma & Ba 2015, algorithm 1) down the mean of the gradients of a batch's parts.

    `optimizer.step()` doesn't trace; these are its operations, and its hyperparameters.
    """
    parameters: list[Tensor] = list(network.parameters())
    gradients = _averaged(_mean(of_parts), all_reduce_dtype)
    options = optimizer.param_groups[0]
    beta1, beta2 = options["betas"]
    with torch.no_grad():
        torch._foreach_add_(adam.steps, 1.0)
        torch._foreach_lerp_(adam.means, gradients, 1.0 - beta1)
        torch._foreach_mul_(adam.squares, beta2)
        torch._foreach_addcmul_(adam.squares, gradients, gradients, 1.0 - beta2)
        # All parameters of a network have taken as many steps as the first.
        steps = adam.steps[0].to(parameters[0].dtype)
        denominators = torch._foreach_sqrt(adam.squares)
        torch._foreach_div_(denominators, _unfilled(beta2, steps).sqrt())
        torch._foreach_add_(denominators, options["eps"])
        changes = torch._foreach_div(adam.means, denominators)
        torch._foreach_mul_(changes, -options["lr"] / _unfilled(beta1, steps))
        torch._foreach_add_(parameters, changes)


def _unfilled(beta: float, steps: Tensor) -> Tensor:
    """1 - beta**steps: how much of a running mean that began at 0 is filled. Exact where beta is near 1."""
    return -torch.expm1(steps * (math.log(beta) if beta else -math.inf))


def _mean(of_parts: list[tuple[Tensor, ...]]) -> list[Tensor]:
    if len(of_parts) == 1:
        return list(of_parts[0])
    return [sum(gradients[1:], gradients[0]) / len(of_parts) for gradients in zip(*of_parts, strict=True)]


def _averaged(gradients: list[Tensor], cross_as: torch.dtype | None) -> list[Tensor]:
    """The mean over all processes, in one all-reduce."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return gradients
    group = dist.group.WORLD
    assert group is not None
    # Gloo knows no average.
    bucket = torch.cat([_in_memory_order(gradient).flatten() for gradient in gradients]) / dist.get_world_size()
    summed = collectives.all_reduce(bucket.to(cross_as or bucket.dtype), "sum", group).to(bucket.dtype)
    parts = summed.split([gradient.numel() for gradient in gradients])
    return [_back(part.view(_in_memory_order(gradient).shape)) for part, gradient in zip(parts, gradients, strict=True)]


def _in_memory_order(weight: Tensor) -> Tensor:
    """Channels last, where there are pixels: as plans lay them out. Another layout would only cost time."""
    return weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight


def _back(weight: Tensor) -> Tensor:
    return weight.permute(0, 3, 1, 2) if weight.dim() == 4 else weight


def _adam(optimizer: torch.optim.Optimizer) -> Adam:
    """An optimizer's state as it is now, for a checkpoint may have replaced it; zeros before the first step."""
    adam = Adam([], [], [])
    for parameter in optimizer.param_groups[0]["params"]:
        state = optimizer.state[parameter]
        if not state:
            # fp32 counts exactly to 16 million, whatever the precision of the parameters; Adam's own count is fp32.
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for tensors, key in zip(adam, ("step", "exp_avg", "exp_avg_sq"), strict=True):
            tensor = state[key]
            torch._dynamo.mark_static_address(tensor, guard=False)  # a CUDA graph may change it in place
            tensors.append(tensor)
    return adam


def _without_counters(network: nn.Module) -> nn.Module:
    """The same network, sharing parameters and statistics, whose BatchNorms don't count their batches."""
    shared: Iterable[Tensor] = chain(network.parameters(), network.buffers())
    twin = copy.deepcopy(network, memo={id(tensor): tensor for tensor in shared})
    for module in twin.modules():
        if isinstance(module, _BatchNorm):
            module.num_batches_tracked = None
    return twin


class _Counter:
    """Counts BatchNorm's batches on the host, and writes the count down when a network's numbers are asked for.

    On a GPU they would be a tenth of a step's launches, for numbers that nothing in training reads.
    """

    def __init__(self, network: nn.Module, passes: int) -> None:
        self.steps = 0
        self._passes = passes
        self._counts = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        network.register_state_dict_pre_hook(lambda *_: self._write())
        network.register_load_state_dict_pre_hook(lambda *_: self._write())

    def _write(self) -> None:
        for module in self._counts:
            assert module.num_batches_tracked is not None
            module.num_batches_tracked += self._passes * self.steps
        self.steps = 0
