"""The generator and the discriminator of a DCGAN, and their initial weights.

Radford, Metz & Chintala 2016, "Unsupervised Representation Learning with Deep Convolutional GANs" (arXiv:1511.06434),
section 3, with the discriminator's sigmoid moved into the loss.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from fastdcgan.gan.architecture import Architecture, ConvSpec
from fastdcgan.gan.randomness import Stream, rng


class Generator(nn.Module):
    """Noise to pictures: transposed convolutions with BatchNorm and ReLU between them, Tanh at the end.

    A class enters as a one-hot vector joined with the noise (Mirza & Osindero 2014, arXiv:1411.1784). So only the first
    layer's shape differs. A learned vector of many numbers in its place soon outweighs the noise, which BatchNorm then
    scales down: G draws one picture a class.
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        *hidden, last = arch.generator
        self.layers = nn.Sequential(
            *_flatten(
                (_conv(nn.ConvTranspose2d, spec), nn.BatchNorm2d(spec.out_channels), nn.ReLU(inplace=True))
                for spec in hidden
            ),
            _conv(nn.ConvTranspose2d, last),
            nn.Tanh(),
        )
        self.class_count = len(arch.classes)

    def forward(self, z_BL: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Standard normal noise [B, latent_dim] to pictures [B, C, H, W] in [-1, 1].

        Args:
            z_BL: the noise.
            labels_B: int64: the class of each picture, where there are classes.
        """
        assert (labels_B is None) == (self.class_count == 0), "labels are for networks with classes"
        if labels_B is not None:
            one_hot_BN = labels_B[:, None] == torch.arange(self.class_count, device=labels_B.device)
            z_BL = torch.cat((z_BL, one_hot_BN.to(z_BL.dtype)), 1)
        pictures_BCHW: Tensor = self.layers(z_BL[:, :, None, None])
        return pictures_BCHW


class Discriminator(nn.Module):
    """Pictures to logits: strided convolutions with LeakyReLU 0.2; BatchNorm after all but the first and the last.

    With classes it is a projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637, figure 2): added to the logit
    is the inner product of learned numbers of the class with the last layer's input, summed over its pixels.

    Args:
        arch: the layers.
        normalise: makes what is in BatchNorm's places, for a number of channels.
    """

    def __init__(self, arch: Architecture, normalise: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        first, *hidden, last = arch.discriminator
        self.layers = nn.Sequential(
            _conv(nn.Conv2d, first),
            nn.LeakyReLU(0.2, inplace=True),
            *_flatten(
                (_conv(nn.Conv2d, spec), normalise(spec.out_channels), nn.LeakyReLU(0.2, inplace=True))
                for spec in hidden
            ),
            _conv(nn.Conv2d, last),
        )
        self.embedding = nn.Embedding(len(arch.classes), last.in_channels) if arch.classes else None

    def forward(self, pictures_BCHW: Tensor, labels_B: Tensor | None = None) -> Tensor:
        """Pictures [B, C, H, W] in [-1, 1] to logits [B]: above 0 for real. Their sigmoid is the probability.

        Args:
            pictures_BCHW: the pictures.
            labels_B: int64: the class of each, where there are classes.
        """
        return self.judge(self.layers, pictures_BCHW, labels_B)

    def judge(self, layers: nn.Sequential, pictures_BCHW: Tensor, labels_B: Tensor | None) -> Tensor:
        """As `forward`, by these layers, which are D's own under the same names."""
        assert (labels_B is None) == (self.embedding is None), "labels are for networks with classes"
        if labels_B is None:
            return self.call_layers(layers, pictures_BCHW).flatten()
        features_BCHW = self.call_layers(layers[:-1], pictures_BCHW)
        logits_B = self.call_layers(layers[-1:], features_BCHW).flatten()
        return logits_B + (self.class_vectors(labels_B) * features_BCHW.sum((2, 3))).sum(1)

    def class_vectors(self, labels_B: Tensor) -> Tensor:
        """The learned numbers [B, C] of classes."""
        assert self.embedding is not None
        vectors_BC: Tensor = self.embedding(labels_B)
        return vectors_BC

    def call_layers(self, layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
        """What some of D's layers, under their own names, make of a batch."""
        y_BCHW: Tensor = layers(x_BCHW)
        return y_BCHW

    def before_update(self) -> None:
        """To be called before each update of D. Here it does nothing."""


class Shift(nn.Module):
    """What BatchNorm adds to a channel, alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return x_BCHW + self.bias[:, None, None]


def initialise(module: nn.Module, seed: int) -> None:
    """Draw the weights: BatchNorm scales from N(1, 0.02), BatchNorm shifts 0, all others from N(0, 0.02).

    0.02 is the standard deviation. The global random state is neither read nor changed.
    """
    generator = torch.Generator().manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            nn.init.normal_(child.weight, 0.0, 0.02, generator=generator)
        elif isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.weight, 1.0, 0.02, generator=generator)
            nn.init.zeros_(child.bias)


def build(
    arch: Architecture, seed: int, make_discriminator: Callable[[Architecture], Discriminator] = Discriminator
) -> tuple[Generator, Discriminator]:
    """G and D, initialised, on the CPU, fp32, contiguous. The global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):  # PyTorch's own default initialisation draws from it
        generator, discriminator = Generator(arch), make_discriminator(arch)
    for position, network in enumerate((generator, discriminator)):
        initialise(network, int(rng(seed, Stream.WEIGHTS, position).integers(2**63)))
    return generator, discriminator


def parameter_count(module: nn.Module) -> int:
    """How many parameters a module has, each number counted."""
    return sum(p.numel() for p in module.parameters())


def _conv(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], spec: ConvSpec) -> nn.Module:
    # No bias: BatchNorm would subtract it again, and the tutorial leaves it out of the outer layers too.
    return kind(spec.in_channels, spec.out_channels, spec.kernel, spec.stride, spec.padding, bias=False)


def _flatten(groups: Iterable[tuple[nn.Module, ...]]) -> Iterable[nn.Module]:
    return (module for group in groups for module in group)
