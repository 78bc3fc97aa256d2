"""DiffAugment: D sees every picture, real or fake, only through a random change that gradients pass (Zhao et al. 2020).

With few pictures D learns them by heart, and G learns nothing more. It can't where it never sees one twice the same.
G's pictures are changed in the same ways, so G is not taught to draw the changes.

Each picture is changed by seven numbers of its own, which are an input: a fake picture is the same changed picture when
D learns and when G does. (The authors' code draws anew for G.)
"""

import torch
from torch import Tensor

from fastdcgan.config import AugmentName

NUMBERS = 7
"""For a picture: brightness, saturation, contrast; shift down, right; cutout's centre from top, left. All are drawn,
whichever are used."""


def augment(pictures_BCHW: Tensor, uniform_BN: Tensor, names: tuple[AugmentName, ...]) -> Tensor:
    """Pictures as D sees them: fp32 (or fp64), in the layout that they have.

    Args:
        pictures_BCHW: in [-1, 1].
        uniform_BN: `NUMBERS` for each, as `randomness.uniform` draws them.
        names: how they are changed.
    """
    x = pictures_BCHW.to(torch.promote_types(pictures_BCHW.dtype, torch.float32))
    brightness, saturation, contrast = uniform_BN[:, :3, None, None, None].to(x.dtype).unbind(1)
    down_B, right_B, from_top_B, from_left_B = uniform_BN[:, 3:].unbind(1)
    if "colour" in names:
        x = x + (brightness - 0.5)
        grey = x.mean(1, keepdim=True)
        x = (x - grey) * (2 * saturation) + grey
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) * (contrast + 0.5) + mean
    if "translation" in names:
        x = _shifted(_shifted(x, down_B, dim=2), right_B, dim=3)
    if "cutout" in names:
        rows_BH, columns_BW = _window(from_top_B, x.shape[2]), _window(from_left_B, x.shape[3])
        x = x * ~(rows_BH[:, None, :, None] & columns_BW[:, None, None, :])
    return x


def _shifted(x_BCHW: Tensor, uniform_B: Tensor, dim: int) -> Tensor:
    """By up to an eighth of the side either way, in whole pixels; what comes in is 0, which is grey."""
    side = x_BCHW.shape[dim]
    most = int(side / 8 + 0.5)
    shift_B = (uniform_B * (2 * most + 1)).long() - most
    source_BS = torch.arange(side, device=x_BCHW.device) - shift_B[:, None]
    is_inside_BS = (source_BS >= 0) & (source_BS < side)
    shape = [len(x_BCHW), 1, 1, 1]
    shape[dim] = side
    index = source_BS.clamp(0, side - 1).view(shape).expand_as(x_BCHW)
    shifted_BCHW = x_BCHW.gather(dim, index) * is_inside_BS.view(shape)
    return shifted_BCHW.contiguous(memory_format=_layout(x_BCHW))


def _window(uniform_B: Tensor, side: int) -> Tensor:
    """Which rows, or columns, a window of half the side covers, whose centre may be at the border: bool [B, S]."""
    size = int(side / 2 + 0.5)
    first_B1 = (uniform_B * (side + 1 - size % 2)).long()[:, None] - size // 2
    place_S = torch.arange(side, device=uniform_B.device)
    return (place_S >= first_B1) & (place_S < first_B1 + size)


def _layout(x_BCHW: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x_BCHW.is_contiguous() else torch.channels_last
