"""The replayed step: `train_step` itself, whose launches are recorded once and then repeated without Python.

On a CPU `cpu_graph.py` records: as a step is taken, so that nothing has to be put back (`CpuReplayedStep`).

A CUDA graph repeats the same operators on the same addresses. So inputs are copied to static tensors, and weights,
BatchNorm's statistics and Adam's state must stay where they were when the graph was recorded.

Where several processes have joined, gradients are averaged in the graph: one all-reduce a network. DDP would have to be
built on the stream that records, and warmed up for 11 iterations; and its hooks, which are Python, are not repeated.
"""

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, Protocol

import torch
from torch import Tensor

from fastdcgan.execution.capture import all_reduce_mean
from fastdcgan.execution.cpu_graph import CpuGraph
from fastdcgan.gan.step import StepMetrics, TrainState
from fastdcgan.kernels import recorded
from fastdcgan.kernels.all_reduce import average_through_memory, world_size

WARM_UP_STEPS = 3
"""Before recording: libraries choose algorithms and reserve memory, networks are compiled, and processes meet."""

Record = Callable[[], Tensor]


class Graph(Protocol):
    """Records operators and repeats them."""

    def warm_up(self, call: Record) -> None:
        """Call it as it will be recorded."""

    def record(self, call: Record) -> Tensor:
        """Record a call; the returned tensor is overwritten by each replay. Whether it is also executed is open."""

    def replay(self) -> None:
        """Repeat the recorded operators."""


class CudaGraph:
    """`torch.cuda.CUDAGraph`, with a stream of its own to warm up and record on."""

    def __init__(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._stream = torch.cuda.Stream()

    def warm_up(self, call: Record) -> None:
        """See `Graph`."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            call()
        torch.cuda.current_stream().wait_stream(self._stream)

    def record(self, call: Record) -> Tensor:
        """See `Graph`."""
        # The global mode takes what other threads do meanwhile for errors: pinned memory allocated for pictures and
        # noise, and NCCL's events looked after.
        with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
            return call()

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


class Replayed:
    """A function of tensors, recorded once. Each call overwrites the last one's result.

    Args:
        function: what it returns depends on its inputs and on tensors that stay where they are.
        inputs: of the shapes of all later calls.
        make_graph: records and repeats.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        inputs: Sequence[Tensor | None],
        make_graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        self._inputs = _clone_all(inputs)
        call = partial(function, *self._inputs)
        self._graph = make_graph()
        for _ in range(WARM_UP_STEPS):
            self._graph.warm_up(call)
        self._result = self._graph.record(call)

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        """The function's result."""
        _copy_all(self._inputs, inputs)
        self._graph.replay()
        return self._result


def _clone_all(inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if tensor is None else tensor.clone() for tensor in inputs]


def _copy_all(static_inputs: Sequence[Tensor | None], inputs: Sequence[Tensor | None]) -> None:
    for static, current in zip(static_inputs, inputs, strict=True):
        if static is None or current is None:
            assert static is current, "recorded for other inputs"
            continue
        assert static.shape == current.shape, "recorded for another shape"
        static.copy_(current, non_blocking=True)


class ReplayedStep:
    """A step of a state, recorded at the first call, and again after an optimizer's state was replaced.

    Recording leaves the state as it was: the first call is one step of training, like any other. Shapes and
    hyperparameters are constants of the graph.

    Args:
        state: changed in place by each call. Its networks must not be wrapped in DDP, nor its gradients scaled.
        take_step: `train_step` or `accumulated_train_step`.
        make_graph: called for each recording.
    """

    def __init__(
        self,
        state: TrainState,
        take_step: Callable[..., StepMetrics],
        make_graph: Callable[[], Graph] = CudaGraph,
    ) -> None:
        assert not state.scaler_d.is_enabled() and not state.scaler_g.is_enabled(), "a gradient scaler is not replayed"
        self._state = state
        self._take_step = take_step
        self._make_graph = make_graph
        self._optimizers = (state.optimizer_g, state.optimizer_d)
        self._replayed: Replayed | None = None

    def __call__(self, *inputs: Tensor | None) -> StepMetrics:
        """As `train_step`."""
        # Loading a checkpoint replaces all tensors of an optimizer; those of networks stay.
        if self._replayed is None or any(map(operator.is_not, self._recorded_with, _of_adam(self._state))):
            self._replayed = self._record(*inputs)
        return StepMetrics(*self._replayed(*inputs).clone().unbind())  # the next replay overwrites them

    def _record(self, *inputs: Tensor | None) -> Replayed:
        before = {id(tensor): tensor.clone() for tensor in self._tensors()}
        replayed = Replayed(self._iteration, inputs, self._make_graph)
        with torch.no_grad():
            for tensor in self._tensors():  # Adam's, if the warm-up made them, begin at 0
                tensor.copy_(before[id(tensor)]) if id(tensor) in before else tensor.zero_()
        self._recorded_with = _of_adam(self._state)
        return replayed

    def _iteration(self, *inputs: Tensor | None) -> Tensor:
        with gradients_averaged(self._state):
            return _metrics(self._take_step, self._state, *inputs)

    def _tensors(self) -> Iterator[Tensor]:
        """All that a step changes, in place."""
        state = self._state
        for network in (state.generator, state.discriminator):
            yield from chain(network.parameters(), network.buffers())
        for optimizer in self._optimizers:
            for of_parameter in list(optimizer.state.values()):
                yield from of_parameter.values()


def _metrics(take_step: Callable[..., StepMetrics], state: TrainState, *inputs: Tensor | None) -> Tensor:
    """A step's metrics as one tensor [4]."""
    return torch.stack([metric.float() for metric in take_step(state, *inputs)])


def _of_adam(state: TrainState) -> list[Tensor | None]:
    """One tensor of each optimizer's state, by which a replaced state is known: to compare all costs time."""
    optimizers = state.optimizer_g, state.optimizer_d
    states = ((optimizer.state, optimizer.param_groups[0]["params"][0]) for optimizer in optimizers)
    return [state[first].get("exp_avg") for state, first in states]


class CpuReplayedStep:
    """A step of a state on the CPU, recorded as it is taken, and again after an optimizer's state was replaced.

    The first step, in which Adam makes its state, is not recorded. Shapes and hyperparameters are constants.

    Args:
        state: changed in place by each call; its networks must not be wrapped in DDP.
        take_step: `train_step` or `accumulated_train_step`.
    """

    def __init__(self, state: TrainState, take_step: Callable[..., StepMetrics]) -> None:
        self._state = state
        self._take_step = take_step
        self._graph: CpuGraph | None = None
        self._recorded_with: list[Tensor | None] = []

    def __call__(self, *inputs: Tensor | None) -> StepMetrics:
        """As `train_step`."""
        of_adam = _of_adam(self._state)
        if any(tensor is None for tensor in of_adam):
            with gradients_averaged(self._state):
                return self._take_step(self._state, *inputs)
        if self._graph is None or any(map(operator.is_not, self._recorded_with, of_adam)):
            self._graph, graph = None, CpuGraph()  # which is used when it is whole
            self._inputs, self._recorded_with = _clone_all(inputs), of_adam
            with gradients_averaged(self._state):
                self._metrics = graph.record(partial(_metrics, self._take_step, self._state, *self._inputs))
            self._graph = graph
        else:
            _copy_all(self._inputs, inputs)
            self._graph.replay()
        return StepMetrics(*self._metrics.clone().unbind())  # the next replay overwrites them


@contextmanager
def gradients_averaged(state: TrainState) -> Iterator[None]:
    """In it each update is by the mean of all processes' gradients."""
    average = partial(_average_gradients, dtype=state.all_reduce_dtype)
    hooks = [optimizer.register_step_pre_hook(average) for optimizer in (state.optimizer_g, state.optimizer_d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _average_gradients(optimizer: torch.optim.Optimizer, *_: Any, dtype: torch.dtype | None) -> None:
    if world_size() > 1:
        gradients = [parameter.grad for parameter in optimizer.param_groups[0]["params"]]
        recorded.call(partial(_replace_by_means, dtype=dtype), *gradients)


def _replace_by_means(*gradients: Tensor, dtype: torch.dtype | None) -> None:
    if dtype is None and average_through_memory(gradients):
        return
    for gradient, mean in zip(gradients, all_reduce_mean(list(gradients), dtype), strict=True):
        gradient.copy_(mean)  # which keeps its layout: fused Adam takes numbers in the order in which they lie
