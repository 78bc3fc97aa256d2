"""The layers with a single pixel on one side, as the matrix products that they are.

G's first layer spreads one pixel of noise over 4 x 4; D's last one gathers 4 x 4 into one logit. Neither moves its
kernel over anything, so the whole of it is one product with the weights as they lie in memory (channels last).
"""

import torch.nn.functional as F
from torch import Tensor, nn


def install(network: nn.Module) -> int:
    """Let a network's layers work this way where they fit; names, parameters and buffers stay as they are.

    Returns:
        how many layers fit.
    """
    fitting = [module for module in network.modules() if fits(module)]
    for module in fitting:
        module.__class__ = EndConv2d if isinstance(module, nn.Conv2d) else EndConvTranspose2d
    return len(fitting)


def fits(module: nn.Module) -> bool:
    """Whether a layer has no stride and no padding: it may have a single pixel on one side, checked at each call."""
    if type(module) not in (nn.Conv2d, nn.ConvTranspose2d):
        return False
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    return (
        (module.stride, module.padding, module.dilation) == ((1, 1), (0, 0), (1, 1))
        and module.groups == 1
        and module.bias is None
    )


class EndConv2d(nn.Conv2d):
    """A convolution whose kernel covers its input."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, K, K] to [B, O, 1, 1]."""
        if x_BCHW.shape[2:] != self.weight.shape[2:]:
            return super().forward(x_BCHW)
        # Rows, columns, channels: for channels-last memory neither reshape copies.
        weight_ON = self.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(x_BCHW.permute(0, 2, 3, 1).flatten(1), weight_ON)[:, :, None, None]


class EndConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution of one pixel."""

    def forward(self, x_BCHW: Tensor, output_size: list[int] | None = None) -> Tensor:
        """[B, C, 1, 1] to [B, O, K, K]."""
        if x_BCHW.shape[2:] != (1, 1):
            return super().forward(x_BCHW, output_size)
        weight_NC = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        y_BN = F.linear(x_BCHW.flatten(1), weight_NC)
        y_BKKO: Tensor = y_BN.unflatten(1, (*self.kernel_size, self.out_channels))
        return y_BKKO.permute(0, 3, 1, 2)
