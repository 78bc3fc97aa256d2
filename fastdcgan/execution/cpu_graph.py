"""A step on the CPU, recorded once and then repeated without autograd: what `CudaGraph` is on a GPU.

Between its kernels a step waits for Python and for autograd, on one thread while the others idle: 5 ms, of the 40 that
a step of dcgan28 takes. A recording is a list of calls: PyTorch's operators, which pass through a `TorchDispatchMode`,
and what is reported to it (`kernels/recorded.py`): our own kernels, and sums over processes. A replay makes these calls
again on the same addresses.

What a step allocates and frees would be freed while the recording still needs it. So each such piece of memory gets a
place in one block, the arena; two that are not in use at the same time may share it. What outlives the recorded call
(gradients, the result) or was there before (weights) stays where it is.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from fastdcgan.execution.allocator import block, release_freed_memory
from fastdcgan.gan import ranges
from fastdcgan.kernels import native, recorded
from fastdcgan.private_torch import (
    OpOverload,
    StorageReference,
    TorchDispatchMode,
    profiler_is_active,
    tree_leaves,
    tree_map_only,
)

aten = torch.ops.aten

_ALLOCATE = {aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided}
_FILL = {aten.full_like, aten.ones_like, aten.zeros_like}
_READ_A_NUMBER = {aten._local_scalar_dense, aten.item}
_COLLECTIVES = ("c10d", "_c10d_functional")
_REMEDY = ": it can't be repeated; --compile off does without"
_ALIGNMENT = 64  # bytes, as PyTorch's own allocations
_GAP = 2 * _ALIGNMENT
"""Between neighbours in the arena: at distances of a power of two they would map to the same sets of the caches."""


@dataclass
class _Memory:
    """A storage that recorded calls read or write."""

    reference: StorageReference
    bytes: int
    stays: torch.UntypedStorage | None
    """The storage itself, where it isn't temporary."""

    first: int = -1
    last: int = -1
    """The calls, by their numbers, from and until which it is in use."""

    offset: int = 0
    """In the arena, in bytes."""


@dataclass(frozen=True)
class _Place:
    """A tensor: where it lies in which memory."""

    memory: int
    dtype: torch.dtype
    offset: int
    shape: torch.Size
    stride: tuple[int, ...]


@dataclass
class _Call:
    """A recorded call: its tensors are `_Place`s, until `CpuGraph` has tensors for them."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)
    results: list[_Place] | None = None
    """Of an operator that returns new tensors: where they are expected."""

    kernel: str = ""
    """The name, where it is one of our kernels."""

    part: str = ""
    """The part of the step, as a profiler shows it."""

    is_constant: bool = False
    """Whether its results are the same in each replay."""

    def places(self) -> list[_Place]:
        """Of all its tensors."""
        return _places((self.arguments, self.named, self.results))


class CpuGraph(TorchDispatchMode):
    """Records a call of operators on the CPU, and repeats it. What Python decides meanwhile is decided for good.

    Unlike CUDA's graphs it needs no warm-up, and what it records is computed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._memories: list[_Memory] = []
        self._known: dict[int, int] = {}
        self._calls: list[_Call] = []
        self._parts: list[str] = []
        self._launches: list[Callable[[], object]] = []
        self._profiled: list[tuple[str, Callable[[], object]]] = []
        self._is_in_reported_call = False

    def record(self, call: Callable[[], Tensor]) -> Tensor:
        """Take a call and record it. Each replay overwrites the returned tensor.

        Raises AssertionError where it reads a number on the host, or an operator changes a tensor and returns another.
        """
        with recorded.reported_to(self._reported), ranges.reported_to(self._parts), self:
            result = call()
        self._plan_memory()
        release_freed_memory()  # a step's worth of it: from now on there is the arena
        self._bind()
        return result

    @torch.inference_mode()
    def replay(self) -> None:
        """Repeat the recorded calls."""
        if profiler_is_active():
            for part, launches in groupby(self._profiled, key=lambda launch: launch[0]):
                with ranges.profiler_range(part) if part else nullcontext():
                    for _, launch in launches:
                        launch()
            return
        for launch in self._launches:
            launch()

    # --- Recording ----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Called for each operator."""
        kwargs = kwargs or {}
        if self._is_in_reported_call:
            return func(*args, **kwargs)
        assert func.namespace not in _COLLECTIVES, f"{func} waits for other processes{_REMEDY}"
        assert func.overloadpacket not in _READ_A_NUMBER, f"a number is read on the host while recording{_REMEDY}"
        arguments, named = tree_map_only(Tensor, self._place, (args, kwargs))
        results = func(*args, **kwargs)
        of_results = [self._place(x, is_new=True) for x in tree_leaves(results) if isinstance(x, Tensor)]
        before = {place.memory for place in _places((arguments, named))}
        are_new = not all(place.memory in before for place in of_results)  # else views, or what was changed in place
        if func._schema.is_mutable:
            assert not are_new, f"{func} changes a tensor and returns another one{_REMEDY}"
            self._add(_Call(func, arguments, named))
        elif are_new and func.overloadpacket not in _ALLOCATE:
            self._add(_Call(func, arguments, named, of_results))
        return results

    @contextmanager
    def _reported(self, function: Callable[..., None], name: str, arguments: Sequence[object]) -> Iterator[None]:
        """See `recorded.Report`."""
        if self._is_in_reported_call:
            yield
            return
        self._add(_Call(function, tree_map_only(Tensor, self._place, tuple(arguments)), kernel=name))
        self._is_in_reported_call = True
        try:
            yield
        finally:
            self._is_in_reported_call = False

    def _place(self, tensor: Tensor, is_new: bool = False) -> _Place:
        assert tensor.device.type == "cpu", tensor.device
        storage = tensor.untyped_storage()
        reference = StorageReference(storage)
        if reference.key not in self._known:  # keys are not used again, as long as there are references
            self._known[reference.key] = len(self._memories)
            self._memories.append(_Memory(reference, storage.nbytes(), None if is_new else storage))
        memory = self._known[reference.key]
        return _Place(memory, tensor.dtype, int(tensor.storage_offset()), tensor.shape, tensor.stride())

    def _add(self, call: _Call) -> None:
        call.part = self._parts[0] if self._parts else ""
        number = len(self._calls)
        self._calls.append(call)
        for place in call.places():
            memory = self._memories[place.memory]
            memory.first, memory.last = memory.first if memory.first >= 0 else number, number

    # --- The arena ----------------------------------------------------------------------------------------------------

    def _plan_memory(self) -> None:
        """Give each temporary memory, in the order in which they come into use, the lowest place that is free."""
        self._find_constants()
        for memory in self._memories:
            memory.stays = memory.stays or memory.reference.storage()
        temporary = [memory for memory in self._memories if memory.stays is None and memory.first >= 0]
        in_use: list[_Memory] = []  # by their offsets
        for memory in sorted(temporary, key=lambda memory: memory.first):
            in_use = [other for other in in_use if other.last >= memory.first]
            for other in in_use:
                if other.offset >= _end(memory):
                    break
                memory.offset = _end(other)
            insort(in_use, memory, key=lambda other: other.offset)
        self._arena = block(max(map(_end, temporary), default=0))

    def _find_constants(self) -> None:
        """A tensor that is filled with a number, and that no call may change, is filled once, and stays."""
        may_change = {place.memory for call in self._calls if call.results is None for place in call.places()}
        for call in self._calls:
            if isinstance(call.function, OpOverload) and call.function.overloadpacket in _FILL and call.results:
                memory = self._memories[call.results[0].memory]
                if call.results[0].memory not in may_change and memory.reference.storage() is None:
                    call.is_constant = True
                    memory.stays = torch.UntypedStorage(memory.bytes)

    def _bind(self) -> None:
        """Make calls without arguments of the recorded ones."""
        for call in self._calls:
            arguments, named = tree_map_only(_Place, self._tensor, (call.arguments, call.named))
            if call.kernel:
                self._launches.append(native.bound(call.function, arguments))
                launch: Callable[[], object] = partial(native.launch, call.function, call.kernel, arguments)
            else:
                results = None if call.results is None else [self._tensor(place) for place in call.results]
                launch = _operator(call.function, arguments, named, results)
                if call.is_constant:
                    launch()
                    continue
                self._launches.append(launch)
            self._profiled.append((call.part, launch))
        self._calls.clear()

    @torch.no_grad()
    def _tensor(self, place: _Place) -> Tensor:
        memory = self._memories[place.memory]
        storage, offset = (self._arena, memory.offset) if memory.stays is None else (memory.stays, 0)
        return torch.empty(0, dtype=place.dtype).set_(
            storage, offset // place.dtype.itemsize + place.offset, place.shape, place.stride
        )


def _places(tree: Any) -> list[_Place]:
    return [x for x in tree_leaves(tree) if isinstance(x, _Place)]


def _end(memory: _Memory) -> int:
    return memory.offset + -(-memory.bytes // _ALIGNMENT) * _ALIGNMENT + _GAP


def _operator(
    func: Any, arguments: tuple[Any, ...], named: dict[str, Any], results: list[Tensor] | None
) -> Callable[[], object]:
    """A call that writes an operator's results to where they are expected."""
    if results is None:
        return _counting(func, arguments, named) or partial(func, *arguments, **named)
    overload, names = _writes_to(func)
    if len(names) == len(results):  # fewer results are given where some are not asked for
        return partial(overload, *arguments, **named, **dict(zip(names, results, strict=True)))

    def compute_and_copy() -> None:
        computed = [x for x in tree_leaves(func(*arguments, **named)) if isinstance(x, Tensor)]
        for result, x in zip(results, computed, strict=True):
            result.copy_(x)

    return compute_and_copy


def _counting(func: OpOverload, arguments: tuple[Any, ...], named: dict[str, Any]) -> Callable[[], None] | None:
    """For additions to single numbers, as Adam and BatchNorm count: PyTorch takes 15 us for each, two dozen a step."""
    if func not in (aten._foreach_add_.Scalar, aten.add_.Tensor) or named:
        return None
    counters, addend = arguments if func is aten._foreach_add_.Scalar else ([arguments[0]], arguments[1])
    tensors = [*counters, addend] if isinstance(addend, Tensor) else counters
    if any(x.dim() or x.dtype not in (torch.float32, torch.int64) or x.dtype != tensors[0].dtype for x in tensors):
        return None
    arrays, number = [x.numpy() for x in counters], addend.numpy() if isinstance(addend, Tensor) else addend

    def count() -> None:
        for array in arrays:
            array += number

    return count


@cache
def _writes_to(func: OpOverload) -> tuple[OpOverload, list[str]]:
    """The same operator that writes to given tensors, and the names under which it takes them, if there is one."""

    def signature(overload: OpOverload) -> list[tuple[str, str]]:
        return [(x.name, str(x.type)) for x in overload._schema.arguments if not x.is_out]

    for name in func.overloadpacket.overloads():
        overload = getattr(func.overloadpacket, name)
        names = [x.name for x in overload._schema.arguments if x.is_out]
        if len(names) == len(func._schema.returns) > 0 and signature(overload) == signature(func):
            return overload, names
    return func, []
