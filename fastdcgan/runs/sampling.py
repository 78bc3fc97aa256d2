"""Pictures from a generator in evaluation mode, and PNG files of them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdcgan.device import to_device
from fastdcgan.gan.architecture import Size
from fastdcgan.storage.files import replacing

SAMPLES = 64
"""Pictures in a sample grid."""

CHUNK = 64
"""Pictures generated at a time: bounds the memory of large requests."""


@torch.no_grad()
def generate(generator: nn.Module, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
    """Make pictures from noise.

    The network is in evaluation mode: BatchNorm uses its running statistics without updating them, so that a picture
    does not depend on the others of its batch. Gradients, training mode and random state are unchanged afterwards.

    Args:
        generator: the plain module, on any device.
        z_BL: noise, fp32 on the CPU.
        labels_B: the class of each, int64 on the CPU, where there are classes.

    Returns:
        pictures in [-1, 1], fp32, [B, C, H, W], on the CPU.
    """
    device = next(generator.parameters()).device
    with _eval_mode(generator):
        chunks = zip(*(tensor.split(CHUNK) for tensor in (z_BL, labels_B) if tensor is not None), strict=True)
        return torch.cat([generator(*(to_device(x, device) for x in chunk)).float().cpu() for chunk in chunks])


@torch.no_grad()
def generate_uint8(generator: nn.Module, z_BL: Tensor, labels_B: Tensor | None = None) -> NDArray[np.uint8]:
    """As `generate`, all at once, as files of pictures have them: uint8 [B, H, W, C], 0 to 255, on the CPU."""
    pictures_BCHW = _made_at_once(generator, z_BL, labels_B)
    # As torchvision rounds. On the device, as bytes are quicker to fetch.
    levels_BCHW = pictures_BCHW.clamp_(-1, 1).add_(1).div_(2).mul_(255).add_(0.5).to(torch.uint8)
    pixels: NDArray[np.uint8] = levels_BCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels


@torch.no_grad()
def generate_values(
    generator: nn.Module, z_BL: Tensor, low: float, high: float, labels_B: Tensor | None = None
) -> NDArray[np.float32]:
    """As `generate`, all at once, in the range of the data: fp32 [B, H, W, C], `low` for -1, `high` for 1."""
    shares_BCHW = _made_at_once(generator, z_BL, labels_B).clamp_(-1, 1).add_(1).div_(2)
    values_BCHW = shares_BCHW.mul_(high - low).add_(low)
    values: NDArray[np.float32] = values_BCHW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return values


def _made_at_once(generator: nn.Module, z_BL: Tensor, labels_B: Tensor | None) -> Tensor:
    """As `generate`, all at once, where the generator is."""
    device = next(generator.parameters()).device
    inputs = [to_device(tensor, device) for tensor in (z_BL, labels_B) if tensor is not None]
    with _eval_mode(generator):
        pictures_BCHW: Tensor = generator(*inputs).float()
    return pictures_BCHW


def save_grid(pictures_BCHW: Tensor, path: Path, columns: int | None = None) -> Path:
    """Write pictures in [-1, 1] as one PNG, as `grid` arranges them. Raises OSError."""
    from torchvision.utils import save_image  # takes 165 MB, which many pictures are made without

    with replacing(path) as file:
        save_image(grid(pictures_BCHW, columns), file, format="PNG")
    return path


def save_tiled(pictures_BCHW: Tensor, path: Path, *, columns: int) -> Path:
    """Write pictures in [-1, 1] as one PNG: a grid of `columns` columns. Raises OSError."""
    from torchvision.utils import save_image

    with replacing(path) as file:
        save_image(pictures_BCHW.clamp(-1, 1).add(1).div(2), file, format="PNG", nrow=columns, padding=2)
    return path


def grid(pictures_BCHW: Tensor, columns: int | None = None) -> Tensor:
    """A grid of pictures in [-1, 1], row by row: fp32 [C, H, W] in [0, 1]. None: about as high as wide."""
    from torchvision.utils import make_grid

    columns = columns or grid_columns(len(pictures_BCHW), Size(*pictures_BCHW.shape[2:]))
    tiled: Tensor = make_grid(pictures_BCHW.clamp(-1, 1).add(1).div(2), nrow=columns, padding=2)
    return tiled


def grid_columns(count: int, size: Size) -> int:
    """Columns of a grid: as many as rows; twice as many where pictures are about 4 times as high as wide, or half."""
    wider = 2.0 ** round(math.log2(size.height / size.width) / 2)
    return min(count, math.ceil(math.sqrt(count) * wider))


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
