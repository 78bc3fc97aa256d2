"""Single-pixel layers: G's first (1 x 1 to 4 x 4 pixels) and D's last (4 x 4 to 1 x 1), as matrix products.

Their kernel has a single position. So each is one `F.linear` with the weights as they are in channels-last memory.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def install(network: nn.Module) -> int:
    """Replace the classes of a network's layers that fit, in place; names, parameters and buffers stay as they are.

    Returns:
        how many layers were replaced.
    """
    fitting = [module for module in network.modules() if fits(module)]
    for module in fitting:
        module.__class__ = SinglePixelConv2d if isinstance(module, nn.Conv2d) else SinglePixelConvTranspose2d
    return len(fitting)


def fits(module: nn.Module) -> bool:
    """Whether a layer has stride 1 and no padding. That one side is a single pixel is checked at each call."""
    if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
        return False
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    return (
        (module.stride, module.padding, module.dilation) == ((1, 1), (0, 0), (1, 1))
        and module.groups == 1
        and module.bias is None
    )


class SinglePixelConv2d(nn.Conv2d):
    """A convolution whose kernel covers its input."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, K, K] to [B, O, 1, 1]; other sizes as `nn.Conv2d`."""
        if x_BCHW.shape[2:] != self.weight.shape[2:]:
            return super().forward(x_BCHW)
        # Rows, columns, channels: for channels-last memory neither reshape copies.
        weight_ON = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(x_BCHW.permute(0, 2, 3, 1).flatten(1), weight_ON)[:, :, None, None]


class SinglePixelConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution whose input is one pixel."""

    def forward(self, x_BCHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, 1, 1] to [B, O, K, K]; other sizes as `nn.ConvTranspose2d`."""
        if x_BCHW.shape[2:] != (1, 1):
            return super().forward(x_BCHW, output_size)
        weight_NC = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        y_BN = F.linear(x_BCHW.flatten(1), weight_NC)
        y_BKKO: Tensor = y_BN.unflatten(1, (*self.kernel_size, self.out_channels))
        return y_BKKO.permute(0, 3, 1, 2)
