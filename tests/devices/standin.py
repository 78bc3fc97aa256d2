"""A device that is not the CPU, on the CPU: a backend of PyTorch in Python, whose memory the host can't reach.

Its tensors hold CPU tensors and compute with them, so all values are right. As on a GPU, tensors of host and device
don't mix, and a number reaches the host only by a copy. What makes the host wait is collected: copies to the host,
operators whose result's shape depends on values, and copies from memory that isn't pinned (CUDA stages those, after
all work that was queued before). Autograd runs on a thread of the device's own.

A process has one such backend, for good, and PyTorch's accelerator is then this one: `install` it in a process apart.
"""

import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import fastdcgan

NAME = "standin"
DEVICE: torch.device
"""Of the name `NAME`, once it is installed."""

PACKAGE = str(Path(fastdcgan.__file__).parent)

aten = torch.ops.aten


@dataclass(frozen=True)
class Wait:
    """The host waited for the device."""

    why: str
    """The operator; for copies "fetch" (to the host) or "unpinned" (from the host)."""

    place: str
    """The outermost of the named functions that it happened in (see `Waits`); "" if in none of them."""

    line: str
    """Of the package: file:line."""


class Waits:
    """Collects waits, by the function of the package that they belong to."""

    def __init__(self, places: Iterable[str]) -> None:
        self.places = frozenset(places)
        self.seen: list[Wait] = []

    def add(self, why: str) -> None:
        """The host waits now."""
        stack = [frame for frame, _ in traceback.walk_stack(sys._getframe(1))]
        ours = [frame for frame in stack if frame.f_code.co_filename.startswith(PACKAGE)]  # the innermost first
        place = next((f.f_code.co_name for f in reversed(ours) if f.f_code.co_name in self.places), "")
        line = f"{Path(ours[0].f_code.co_filename).name}:{ours[0].f_lineno}" if ours else "a backward pass"
        self.seen.append(Wait(why, place, line))


waits = Waits(())
pinned: list[Tensor] = []
"""Tensors in pinned memory; kept, so that no other takes their addresses."""


class OnDevice(Tensor):
    """A tensor of the device; its numbers are in `host`, a tensor of the same layout, out of the package's sight."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> "OnDevice":
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=DEVICE,
        )
        made.host = host
        return made

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.dtype}, {list(self.shape)})"  # looking at it is no fetch

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.copy_.default:
            return _copy(*args, **kwargs)
        to_host = torch.device(kwargs.get("device") or DEVICE).type == "cpu"
        _check_memory(func, args, kwargs)
        if to_host or torch.Tag.data_dependent_output in func.tags or _shape_depends_on_values(func, args):
            waits.add("fetch" if to_host else str(func))
        wrappers = {id(t.host): t for t in tree_iter((args, kwargs)) if isinstance(t, OnDevice)}
        hosts, options = tree_map(_unwrapped, (args, dict(kwargs)))
        if "device" in options:
            options["device"] = torch.device("cpu")
        results = func(*hosts, **options)
        if to_host:
            return results
        # What an operator changed in place it returns: the same tensor, then.
        return tree_map(lambda x: wrappers[id(x)] if id(x) in wrappers else _wrapped(x), results)


def install() -> torch.device:
    """Make the device known to PyTorch, for the rest of the process; before its first backward pass."""
    global DEVICE
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    DEVICE = torch.device(NAME, 0)
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    for name in ("conv2d", "conv_transpose2d.input"):
        library.impl(name, _in_autocast_dtype(name), "AutocastPrivateUse1")
    rest = torch.library.Library("_", "IMPL")
    rest.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _LIBRARIES.extend((library, rest))
    Tensor.pin_memory = _pinned_copy  # type: ignore[method-assign, assignment]
    Tensor.is_pinned = lambda self, device=None: _is_pinned(self)  # type: ignore[method-assign, assignment, misc]
    return DEVICE


_LIBRARIES: list[Any] = []
"""An implementation lives as long as its library."""


class _Module:
    """What PyTorch asks of a backend's module, `torch.standin`."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: object = None) -> None:
        waits.add("synchronize")


def _wrapped(x: Any) -> Any:
    return OnDevice(x) if isinstance(x, Tensor) else x


def _unwrapped(x: Any) -> Any:
    return x.host if isinstance(x, OnDevice) else x


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    if not isinstance(target, OnDevice):
        waits.add("fetch")
    elif not isinstance(source, OnDevice) and not (non_blocking and _is_pinned(source)):
        waits.add("unpinned")
    _unwrapped(target).copy_(_unwrapped(source))
    return target


def _check_memory(func: Any, args: Any, kwargs: Any) -> None:
    """Raises RuntimeError, as PyTorch does, where an operator is given tensors of the host too.

    A number on the host may go with it, as the kernel's argument; not in lists of tensors. An index may be on the host,
    as it is copied: that is a wait.
    """
    on_host = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor) and not isinstance(x, OnDevice)]
    if func in (aten.index.Tensor, aten.index_put_.default) and isinstance(args[0], OnDevice):
        for _ in on_host:
            waits.add("unpinned")
    elif any(tensor.dim() for tensor in on_host) or (on_host and "foreach" in str(func)):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {DEVICE} and cpu! ({func})"
        )


def _shape_depends_on_values(func: Any, args: Any) -> bool:
    """Whether the host must know values before it knows how much memory the result takes."""
    if func is aten.index.Tensor:  # by numbers, or by a mask
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return OnDevice(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return OnDevice(torch.empty_strided(size, stride, dtype=dtype))


def _in_autocast_dtype(name: str) -> Callable[..., Tensor]:
    """A convolution under autocast: its inputs are cast, as on CUDA. Casts are not cached."""
    operator, _, overload = name.partition(".")
    func = getattr(getattr(aten, operator), overload or "default")

    def cast(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME)
        with torch.autocast(NAME, enabled=False):
            return func(*tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) else x, args), **kwargs)

    return cast


def _pinned_copy(tensor: Tensor, device: object = None) -> Tensor:
    assert not isinstance(tensor, OnDevice), "only the host's memory can be pinned"
    if not _is_pinned(tensor):
        tensor = tensor.clone()
        pinned.append(tensor)
    return tensor


def _is_pinned(tensor: Tensor) -> bool:
    address = tensor.untyped_storage().data_ptr()
    return any(address == other.untyped_storage().data_ptr() for other in pinned)
