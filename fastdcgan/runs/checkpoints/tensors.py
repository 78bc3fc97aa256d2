"""Tensors of a checkpoint: weights by the plain module's names, Adam's moments, and reading them from safetensors."""

from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fastdcgan.runs.checkpoints.record import shortened
from fastdcgan.storage import checksummed, strict_json
from fastdcgan.storage.checksummed import FileDigest

Tensors = dict[str, Tensor]

MAX_HEADER_BYTES = 1 << 20
"""Limit of a safetensors file's header; ours have a few thousand bytes."""

_DTYPE_NAMES = {torch.float32: "F32", torch.float64: "F64", torch.int64: "I64"}
"""Safetensors' names for the dtypes that networks and their optimizers have here."""


def weights(network: nn.Module) -> Tensors:
    """Parameters and buffers by name."""
    found: Tensors = network.state_dict()
    return found


def moments(prefix: str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Tensors:
    """Adam's state as PREFIX.PARAMETER.exp_avg, .exp_avg_sq and .step; empty before its first update."""
    return {
        f"{prefix}.{name}.{key}": value
        for name, parameter in network.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def like_moments(prefix: str, network: nn.Module) -> Tensors:
    """Tensors of the names, dtypes and shapes that `moments` has after a step."""
    return {
        f"{prefix}.{name}.{key}": like
        for name, parameter in network.named_parameters()
        for key, like in (("step", torch.empty(())), ("exp_avg", parameter), ("exp_avg_sq", parameter))
    }


def restore_moments(prefix: str, moments: Tensors, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `moments`."""
    for name, parameter in network.named_parameters():
        saved = {key: moments.get(f"{prefix}.{name}.{key}") for key in ("step", "exp_avg", "exp_avg_sq")}
        # The moments take the parameter's layout: the fused update walks both in memory order.
        optimizer.state[parameter] = {
            key: value.to(parameter.device) if key == "step" else torch.empty_like(parameter).copy_(value)
            for key, value in saved.items()
            if value is not None
        }


def cpu_copies(tensors: Tensors) -> Tensors:
    """Contiguous copies in host memory; safetensors stores no strides."""
    return {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }


def read_network(path: Path, name: str, manifest: dict[str, FileDigest] | None, network: nn.Module) -> Tensors:
    """Read the weights of a network, as `read_tensors`. Raises ValueError also where they are not all finite."""
    tensors = read_tensors(path, name, manifest, weights(network))
    if bad := [key for key, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise ValueError(f"checkpoint {path} is damaged: {bad[0]} of its {name} has numbers that are not finite")
    return tensors


def read_tensors(
    path: Path,
    name: str,
    manifest: dict[str, FileDigest] | None,
    expected: Tensors,
    optional_prefixes: Sequence[str] = (),
) -> Tensors:
    """Read a safetensors file that must hold exactly the expected tensors.

    Args:
        path: of the checkpoint.
        name: of the file.
        manifest: of the checkpoint; None: nothing is known of the file.
        expected: tensors of the names, dtypes and shapes.
        optional_prefixes: the tensors whose names begin with such a prefix may be missing, all together.

    Raises:
        ValueError: the file is damaged, or holds other tensors.
    """
    max_bytes = sum(tensor.nbytes for tensor in expected.values()) + MAX_HEADER_BYTES
    try:
        data = checksummed.read(path / name, manifest[name] if manifest else None, max_bytes)
        header = _read_header(data, name)
    except ValueError as error:
        raise ValueError(f"checkpoint {path} is damaged: {error}") from error
    for prefix in optional_prefixes:
        if not any(key.startswith(prefix) for key in header):
            expected = {key: tensor for key, tensor in expected.items() if not key.startswith(prefix)}
    for key in sorted(header.keys() | expected.keys()):
        there = header.get(key, "missing")
        here = f"{_DTYPE_NAMES[expected[key].dtype]} {list(expected[key].shape)}" if key in expected else "unknown"
        if there != here:
            raise ValueError(
                f"checkpoint {path} does not fit: {shortened(key)} of its {name} is {there} there, {here} here"
            )
    try:
        tensors: Tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise ValueError(f"checkpoint {path} is damaged: its {name} can't be read ({error})") from error
    return tensors


def _read_header(data: bytes, name: str) -> dict[str, str]:
    """The tensors in a safetensors file: name -> dtype and shape as text. Raises ValueError."""
    length = int.from_bytes(data[:8], "little")
    try:
        if length > min(len(data) - 8, MAX_HEADER_BYTES):
            raise ValueError(f"a header of {length:,} bytes")
        header = strict_json.parse(data[8 : 8 + length])
        return {key: f"{entry['dtype']} {entry['shape']}" for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its {name} is not a safetensors file") from error
