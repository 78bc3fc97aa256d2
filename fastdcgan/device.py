"""What is different on a device with memory of its own: it works behind the host, which should not wait for it."""

import torch
from torch import Tensor


def has_own_memory(device: torch.device) -> bool:
    """Whether tensors are copied to it, by it. MPS shares the CPU's memory."""
    return device.type not in ("cpu", "mps")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host doesn't wait for the copy.

    A device reads only pinned memory by itself. To copy from other memory the host may wait until all work that was
    queued before is done. PyTorch keeps a pinned block until the copy out of it is done.
    """
    if tensor.device.type == "cpu":
        tensor = pinned_for(tensor, device)
    return tensor.to(device, non_blocking=True)


def pinned_for(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor in host memory that the device can read by itself. Any thread may prepare it for `to_device`."""
    return tensor.pin_memory() if has_own_memory(device) else tensor


def free_memory(device: torch.device) -> int:
    """Bytes of a device's own memory that are free; 0 where that is unknown."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def total_memory(device: torch.device) -> int:
    """Bytes of a device's own memory; 0 where that is unknown."""
    return torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else 0
