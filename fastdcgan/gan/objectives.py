"""The losses of D and G, from D's logits. They are at least fp32, also under autocast.

In the formulas l is a logit, D(x) = sigma(l) is its sigmoid (hinge and lsgan use l itself). The sigmoid is never
computed by itself: log(sigma(l)) overflows where the loss does not.

`rpgan` looks at differences of logits alone: each fake picture is judged beside a real one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdcgan.config import ObjectiveName

DiscriminatorLoss = Callable[[Tensor, Tensor, float], Tensor]
GeneratorLoss = Callable[[Tensor], Tensor]
"""Of logits for fake pictures; of `rpgan`, of how far they are above those of the real ones beside them."""

RELATIVISTIC: tuple[ObjectiveName, ...] = ("rpgan",)


@dataclass(frozen=True)
class Objective:
    """A pair of losses over logits [B]; both return a scalar, the mean over the batch."""

    discriminator_terms: DiscriminatorLoss
    generator_term: GeneratorLoss
    label_smoothing: float = 0.0
    relativistic: bool = False
    """G's loss depends on D's logits for real pictures, too."""

    def discriminator(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> Tensor:
        """D's loss: the sum of its mean loss on real and its mean loss on fake pictures."""
        return self.discriminator_terms(
            _at_least_fp32(logits_real_B), _at_least_fp32(logits_fake_B), 1.0 - self.label_smoothing
        )

    def generator(self, logits_fake_B: Tensor, logits_real_B: Tensor | None = None) -> Tensor:
        """G's loss, from D's logits on its pictures, and on as many real ones where it is relativistic."""
        fake_B = _at_least_fp32(logits_fake_B)
        if not self.relativistic:
            return self.generator_term(fake_B)
        assert logits_real_B is not None, "fake pictures are judged beside real ones"
        return self.generator_term(fake_B - _at_least_fp32(logits_real_B))

    def probabilities(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> tuple[Tensor, Tensor]:
        """D's mean probability for a real and for a fake picture to be real: scalars, fp32, detached.

        Of a relativistic objective, to be the real one of a pair of a real and a fake one; they add up to 1.
        """
        real_B, fake_B = logits_real_B.detach().float(), logits_fake_B.detach().float()
        if self.relativistic:
            real_B, fake_B = real_B - fake_B, fake_B - real_B
        return real_B.sigmoid().mean(), fake_B.sigmoid().mean()

    def after_update(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> None:
        """To be called after each update of D, with the logits [B] of its batch before it. Here it does nothing."""


def objective(name: ObjectiveName, label_smoothing: float = 0.0) -> Objective:
    """An objective by name.

    Args:
        name: bce, minimax, hinge, lsgan or rpgan.
        label_smoothing: one-sided (Salimans et al. 2016, section 3.4): D's target for real pictures is 1 minus this.
            Hinge and rpgan have no target and ignore it.
    """
    return Objective(*OBJECTIVES[name], label_smoothing, name in RELATIVISTIC)


def _at_least_fp32(logits_B: Tensor) -> Tensor:
    """Cast bf16 and fp16 to fp32: a mean over many bf16 numbers would lose most of their digits."""
    return logits_B.to(torch.promote_types(logits_B.dtype, torch.float32))


def _cross_entropy(logits_B: Tensor, label: float) -> Tensor:
    """-(label log sigma(l) + (1 - label) log(1 - sigma(l))), the mean over the batch."""
    return F.binary_cross_entropy_with_logits(logits_B, torch.full_like(logits_B, label))


def _bce_discriminator(logits_real_B: Tensor, logits_fake_B: Tensor, real_label: float) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))), Goodfellow et al. 2014, equation 1."""
    return _cross_entropy(logits_real_B, real_label) + _cross_entropy(logits_fake_B, 0.0)


def _bce_generator(logits_fake_B: Tensor) -> Tensor:
    """-E log D(G(z)): the non-saturating form (ibid., section 3)."""
    return _cross_entropy(logits_fake_B, 1.0)


def _minimax_generator(logits_fake_B: Tensor) -> Tensor:
    """E log(1 - D(G(z))): the minimax form (ibid., equation 1), whose gradient vanishes when D wins."""
    return -_cross_entropy(logits_fake_B, 0.0)


def _hinge_discriminator(logits_real_B: Tensor, logits_fake_B: Tensor, real_label: float) -> Tensor:
    """E max(0, 1 - D(x)) + E max(0, 1 + D(G(z))): Lim & Ye 2017, "Geometric GAN"."""
    return F.relu(1.0 - logits_real_B).mean() + F.relu(1.0 + logits_fake_B).mean()


def _hinge_generator(logits_fake_B: Tensor) -> Tensor:
    """-E D(G(z)) (ibid.)."""
    return -logits_fake_B.mean()


def _lsgan_discriminator(logits_real_B: Tensor, logits_fake_B: Tensor, real_label: float) -> Tensor:
    """(E (D(x) - 1)^2 + E D(G(z))^2) / 2: Mao et al. 2017, equation 9, with labels 0 and 1."""
    return 0.5 * ((logits_real_B - real_label).square().mean() + logits_fake_B.square().mean())


def _lsgan_generator(logits_fake_B: Tensor) -> Tensor:
    """E (D(G(z)) - 1)^2 / 2 (ibid.)."""
    return 0.5 * (logits_fake_B - 1.0).square().mean()


def _rpgan_discriminator(logits_real_B: Tensor, logits_fake_B: Tensor, real_label: float) -> Tensor:
    """-E log sigma(l(x) - l(G(z))), a real picture beside each fake one: Jolicoeur-Martineau 2018; Huang et al. 2024,
    "The GAN is dead; long live the GAN!", equation 2 with its choice of f.
    """
    return _cross_entropy(logits_real_B - logits_fake_B, 1.0)


OBJECTIVES: dict[ObjectiveName, tuple[DiscriminatorLoss, GeneratorLoss]] = {
    "bce": (_bce_discriminator, _bce_generator),
    "minimax": (_bce_discriminator, _minimax_generator),
    "hinge": (_hinge_discriminator, _hinge_generator),
    "lsgan": (_lsgan_discriminator, _lsgan_generator),
    "rpgan": (_rpgan_discriminator, _bce_generator),
}
