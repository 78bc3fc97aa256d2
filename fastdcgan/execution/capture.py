"""The captured step: the whole training iteration, both Adam updates included, as one graph.

A fast GPU finishes an operator of this network sooner than Python can launch the next. One graph can be replayed
without launches (CUDA graphs). It computes what `step.train_step` computes, and updates the tensors of networks and
optimizers in place, so that checkpoints of the two are the same.
"""

import copy
import math
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from fastdcgan import private_torch
from fastdcgan.gan.ranges import CAPTURED_STEP, profiler_range
from fastdcgan.gan.step import (
    StepMetrics,
    TrainState,
    as_discriminator_sees,
    call,
    chunks,
    discriminator_loss,
    generator_loss,
    updates_of_discriminator,
)
from fastdcgan.kernels.all_reduce import all_reduce_sum, world_size

Network = TypeVar("Network", bound=nn.Module)


class AdamState(NamedTuple):
    """The state of `torch.optim.Adam` for one network, a tensor a parameter, all on the device."""

    steps: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]


def inductor_options() -> dict[str, Any]:
    """Inductor's options for a captured step on CUDA."""
    options = {"triton.cudagraphs": True}  # as mode="reduce-overhead" says
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14):
        # 2.11 ends with an AssertionError where Adam's lists of tensors are fused (PyTorch's issue 176591).
        options["loop_ordering_after_fusion"] = False
    return options


class CapturedStep:
    """`train_step` of a state, as one graph. It is compiled at the first call, which takes minutes with Inductor.

    Shapes and the optimizers' hyperparameters are constants of the graph. Where several processes have joined,
    gradients are averaged over them in the graph, one bucket a network.

    Args:
        state: changed in place by each call. Its networks must not be wrapped in DDP, nor its gradients scaled.
        backend: of torch.compile.
    """

    def __init__(self, state: TrainState, backend: str | Callable[..., object]) -> None:
        assert not state.scaler_d.is_enabled() and not state.scaler_g.is_enabled(), (
            "a captured step has no gradient scaler"
        )
        self._state = state
        self._generator = _without_batch_counters(state.generator)
        self._discriminator = _without_batch_counters(state.discriminator)
        self._counters = (
            _BatchCounter(state.generator, passes=state.d_steps * state.accumulate),
            _BatchCounter(
                state.discriminator,
                passes=(2 * state.d_steps + 1 + state.objective.relativistic) * state.accumulate,
            ),
        )
        on_cuda = next(state.generator.parameters()).device.type == "cuda"
        self._graph = torch.compile(
            self._iteration,
            backend=backend,
            fullgraph=True,
            dynamic=False,
            options=inductor_options() if on_cuda and backend == "inductor" else None,
        )
        # The next replay of a CUDA graph overwrites the tensors that the last one returned.
        self._copy: Callable[[Tensor], Tensor] = torch.clone if on_cuda else lambda metrics: metrics

    def __call__(
        self, real_BCHW: Tensor, z_BL: Tensor, draws_BN: Tensor | None = None, labels_B: Tensor | None = None
    ) -> StepMetrics:
        """As `train_step`."""
        adam_g, adam_d = _adam_state(self._state.optimizer_g), _adam_state(self._state.optimizer_d)
        with private_torch.autograd_in_graphs(), profiler_range(CAPTURED_STEP):
            metrics = self._graph(real_BCHW, z_BL, draws_BN, labels_B, adam_g, adam_d)
        for counter in self._counters:
            counter.steps += 1
        return StepMetrics(*self._copy(metrics).unbind())

    def _iteration(
        self,
        real_BCHW: Tensor,
        z_BL: Tensor,
        draws_BN: Tensor | None,
        labels_B: Tensor | None,
        adam_g: AdamState,
        adam_d: AdamState,
    ) -> Tensor:
        """`train_step`, or `accumulated_train_step`, in operators that trace. Returns the metrics as a tensor [4]."""
        G, D, state = self._generator, self._discriminator, self._state
        parts = state.accumulate
        for update in updates_of_discriminator(state, real_BCHW, z_BL, draws_BN, labels_B):
            D.before_update()
            labels_of_parts = chunks(update.labels, parts)
            of_fakes = zip(update.z.chunk(parts), labels_of_parts, chunks(update.draws, parts), strict=True)
            with state.autocast():
                fakes_bCHW = [
                    as_discriminator_sees(state, call(G, z_bL, labels_b), draws_bN)
                    for z_bL, labels_b, draws_bN in of_fakes
                ]
            gradients_d, logits_of_parts, metrics = [], [], []
            for real_bCHW, fake_bCHW, labels_b in zip(
                update.real.chunk(parts), fakes_bCHW, labels_of_parts, strict=True
            ):
                with state.autocast():
                    loss_d, *logits = discriminator_loss(
                        D, real_bCHW, fake_bCHW.detach(), state.objective, labels_B=labels_b
                    )
                gradients_d.append(torch.autograd.grad(loss_d, list(D.parameters())))
                logits_of_parts.append([logits_b.detach() for logits_b in logits])
                metrics.append([loss_d.detach().float(), *state.objective.probabilities(*logits)])
            _adam_step(D, gradients_d, adam_d, state.optimizer_d, state.all_reduce_dtype)
            logits_real_B, logits_fake_B = (torch.cat(of_parts) for of_parts in zip(*logits_of_parts, strict=True))
            state.objective.after_update(logits_real_B, logits_fake_B)
        gradients_g = []
        last = zip(update.real.chunk(parts), fakes_bCHW, labels_of_parts, metrics, strict=True)
        for real_bCHW, fake_bCHW, labels_b, metrics_b in last:
            with state.autocast():  # a new context, which casts D's updated weights
                loss_g = generator_loss(D, real_bCHW, fake_bCHW, state.objective, labels_b)
            gradients_g.append(torch.autograd.grad(loss_g, list(G.parameters())))
            metrics_b.insert(1, loss_g.detach().float())
        _adam_step(G, gradients_g, adam_g, state.optimizer_g, state.all_reduce_dtype)
        return torch.stack([torch.stack(metrics_b) for metrics_b in metrics]).mean(0)


def _adam_step(
    network: nn.Module,
    gradients_of_micro_batches: list[tuple[Tensor, ...]],
    adam: AdamState,
    optimizer: torch.optim.Optimizer,
    all_reduce_dtype: torch.dtype | None,
) -> None:
    """One Adam step (Kingma & Ba 2015, algorithm 1) with the mean gradient over micro-batches and processes.

    `optimizer.step()` doesn't trace; these are its operations and its hyperparameters.
    """
    parameters: list[Tensor] = list(network.parameters())
    gradients = all_reduce_mean(_mean_gradients(gradients_of_micro_batches), all_reduce_dtype)
    options = optimizer.param_groups[0]
    beta1, beta2 = options["betas"]
    with torch.no_grad():
        private_torch.foreach_add_(adam.steps, 1.0)
        private_torch.foreach_lerp_(adam.exp_avgs, gradients, 1.0 - beta1)
        private_torch.foreach_mul_(adam.exp_avg_sqs, beta2)
        private_torch.foreach_addcmul_(adam.exp_avg_sqs, gradients, gradients, 1.0 - beta2)
        # All parameters of a network have taken as many steps as the first.
        steps = adam.steps[0].to(parameters[0].dtype)
        denominators = private_torch.foreach_sqrt(adam.exp_avg_sqs)
        private_torch.foreach_div_(denominators, _bias_correction(beta2, steps).sqrt())
        private_torch.foreach_add_(denominators, options["eps"])
        changes = private_torch.foreach_div(adam.exp_avgs, denominators)
        private_torch.foreach_mul_(changes, -options["lr"] / _bias_correction(beta1, steps))
        private_torch.foreach_add_(parameters, changes)


def _bias_correction(beta: float, steps: Tensor) -> Tensor:
    """1 - beta**steps, for a running mean that began at 0; without cancellation where beta is near 1."""
    return -torch.expm1(steps * (math.log(beta) if beta else -math.inf))


def _mean_gradients(gradients_of_micro_batches: list[tuple[Tensor, ...]]) -> list[Tensor]:
    count = len(gradients_of_micro_batches)
    if count == 1:
        return list(gradients_of_micro_batches[0])
    return [sum(gradients[1:], gradients[0]) / count for gradients in zip(*gradients_of_micro_batches, strict=True)]


def all_reduce_mean(gradients: list[Tensor], dtype: torch.dtype | None) -> list[Tensor]:
    """The mean over all processes, in one all-reduce of this dtype; None: of the gradients' own."""
    if world_size() == 1:
        return gradients
    # Summed, as gloo can't average.
    bucket = torch.cat([_to_nhwc(gradient).flatten() for gradient in gradients]) / world_size()
    summed = all_reduce_sum(bucket.to(dtype or bucket.dtype)).to(bucket.dtype)
    slices = summed.split([gradient.numel() for gradient in gradients])
    return [_to_nchw(flat.view(_to_nhwc(gradient).shape)) for flat, gradient in zip(slices, gradients, strict=True)]


def _to_nhwc(weight: Tensor) -> Tensor:
    """The permutation of a convolution's weight that is contiguous in channels-last memory. Others are copied."""
    return weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight


def _to_nchw(weight: Tensor) -> Tensor:
    """Undoes `_to_nhwc`."""
    return weight.permute(0, 3, 1, 2) if weight.dim() == 4 else weight


def _adam_state(optimizer: torch.optim.Optimizer) -> AdamState:
    """An optimizer's tensors; zeros before the first step. Not kept: loading a checkpoint replaces them."""
    adam = AdamState([], [], [])
    for parameter in optimizer.param_groups[0]["params"]:
        state = optimizer.state[parameter]
        if not state:
            # fp32 as in torch.optim.Adam: exact up to 16 million steps.
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        for tensors, key in zip(adam, ("step", "exp_avg", "exp_avg_sq"), strict=True):
            tensor = state[key]
            private_torch.mark_static_address(tensor)
            tensors.append(tensor)
    return adam


def _without_batch_counters(network: Network) -> Network:
    """A copy of a network that shares its parameters and statistics; its BatchNorms don't count their batches."""
    shared: Iterable[Tensor] = chain(network.parameters(), network.buffers())
    shallow = copy.deepcopy(network, memo={id(tensor): tensor for tensor in shared})
    for module in shallow.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    return shallow


class _BatchCounter:
    """Counts BatchNorm's batches on the host, and updates `num_batches_tracked` when a state dict is saved or loaded.

    On a GPU counting would be a tenth of a step's launches, and nothing in training reads the counts.
    """

    def __init__(self, network: nn.Module, passes: int) -> None:
        self.steps = 0
        self._passes = passes
        self._norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        network.register_state_dict_pre_hook(lambda *_: self._write())
        network.register_load_state_dict_pre_hook(lambda *_: self._write())

    def _write(self) -> None:
        for module in self._norms:
            assert module.num_batches_tracked is not None
            module.num_batches_tracked += self._passes * self.steps
        self.steps = 0
