"""The stacked call: D on real and fake pictures concatenated, for larger matrix products and half as many operators.

BatchNorm normalises each of the two batches by itself: common statistics would tell D which half is fake.
"""

from torch import Tensor, nn

from fastdcgan.execution.exact_sums import ExactBatchNorm2d, ExactConv2d
from fastdcgan.gan.models import Discriminator
from fastdcgan.kernels.batch_norm import normalise_each
from fastdcgan.kernels.sync_batch_norm import SyncBatchNorm2d


class StackedDiscriminator(nn.Module):
    """A discriminator of two concatenated batches. It shares its layers with the one it is made from."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.layers = StackedLayers(*discriminator.layers)
        self.embedding = discriminator.embedding
        self._judge = discriminator.judge

    def forward(self, pictures_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """[2B, C, H, W] in [-1, 1], and labels [2B] where there are classes, to logits [2B]."""
        return self._judge(self.layers, pictures_BCHW, labels_B)


class StackedLayers(nn.Sequential):
    """D's layers, on two concatenated batches."""

    def forward(self, x: Tensor) -> Tensor:
        """[2B, C, H, W] to [2B, ...]."""
        for layer in self:
            if isinstance(layer, SyncBatchNorm2d | ExactBatchNorm2d | ExactConv2d):
                x = layer(x, batches=2)
            else:
                x = normalise_each(layer, x, batches=2 if isinstance(layer, nn.BatchNorm2d) else 1)
        return x
