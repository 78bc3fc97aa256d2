"""Spectral normalisation of D (Miyato et al. 2018): each layer's weight divided by its largest singular value.

No layer can then stretch a difference between two pictures, so D is steep nowhere and G's gradients stay useful. The
singular value is estimated by the power iteration, one step before each update of D.

BatchNorm would undo it: what it does to a layer's output does not depend on the weight's scale. So this D has none, and
in its places the shift alone. Layers are divided as they are called, not replaced: they may be of any class.
"""

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from fastdcgan.config import RecipeConfig
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.lecam import add_anchors
from fastdcgan.gan.models import Discriminator, Generator, Shift, build
from fastdcgan.gan.randomness import Stream, rng

FIRST_ITERATIONS = 15
"""From random vectors, once the weights are there; as in PyTorch's parametrization."""


def build_for(recipe: RecipeConfig, arch: Architecture, seed: int) -> tuple[Generator, Discriminator]:
    """As `models.build`, with the D that a recipe asks for."""
    generator, discriminator = build(arch, seed, SpectralDiscriminator if recipe.spectral_norm else Discriminator)
    if isinstance(discriminator, SpectralDiscriminator):
        discriminator.begin(torch.Generator().manual_seed(int(rng(seed, Stream.WEIGHTS, 2).integers(2**63))))
    if recipe.lecam:
        add_anchors(discriminator)
    return generator, discriminator


class SpectralDiscriminator(Discriminator):
    """A discriminator whose layers have the buffers `left` [O] and `right` [C K K]: the singular vectors, estimated.

    So has its embedding of classes, where there are some (Miyato & Koyama 2018, section 4).
    """

    def __init__(self, arch: Architecture) -> None:
        super().__init__(arch, normalise=Shift)
        for layer in self._normalised_layers():
            matrix = layer.weight.flatten(1)
            layer.register_buffer("left", matrix.new_zeros(len(matrix)))
            layer.register_buffer("right", matrix.new_zeros(matrix.shape[1]))

    def call_layers(self, layers: nn.Sequential, x_BCHW: Tensor) -> Tensor:
        """As `Discriminator.call_layers`."""
        weights = {
            f"{name}.weight": _normalised(layer)
            for name, layer in layers.named_children()
            if isinstance(layer, nn.Conv2d)
        }
        y_BCHW: Tensor = functional_call(layers, weights, (x_BCHW,))
        return y_BCHW

    def class_vectors(self, labels_B: Tensor) -> Tensor:
        """As `Discriminator.class_vectors`."""
        assert self.embedding is not None
        return F.embedding(labels_B, _normalised(self.embedding))

    def begin(self, generator: torch.Generator) -> None:
        """Estimate the singular vectors of new weights, from random ones."""
        for layer in self._normalised_layers():
            for vector in _vectors(layer):
                vector.copy_(F.normalize(torch.randn(len(vector), generator=generator), dim=0))
        for _ in range(FIRST_ITERATIONS):
            self.before_update()

    @torch.no_grad()
    def before_update(self) -> None:
        """A step of the power iteration."""
        for layer in self._normalised_layers():
            matrix, (left, right) = layer.weight.flatten(1), _vectors(layer)
            left.copy_(F.normalize(matrix @ right, dim=0, eps=1e-12))
            right.copy_(F.normalize(matrix.T @ left, dim=0, eps=1e-12))

    def _normalised_layers(self) -> Iterator[nn.Conv2d | nn.Embedding]:
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                yield layer
        if self.embedding is not None:
            yield self.embedding


def _normalised(layer: nn.Conv2d | nn.Embedding) -> Tensor:
    """The weight as it is used. Its gradient reaches the weight as it is."""
    left, right = _vectors(layer)
    with torch.autocast(layer.weight.device.type, enabled=False):
        return layer.weight / torch.dot(left, layer.weight.flatten(1) @ right)


def _vectors(layer: nn.Conv2d | nn.Embedding) -> tuple[Tensor, Tensor]:
    return cast(Tensor, layer.left), cast(Tensor, layer.right)
