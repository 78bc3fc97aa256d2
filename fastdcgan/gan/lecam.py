"""LeCam: D's logits are held near what they were on the other kind of pictures (Tseng et al. 2021, equation 6).

With few pictures D's logits on real and on fake ones run apart. So D's loss has a second term,

    E (D(x) - a_fake)^2 + E (D(G(z)) - a_real)^2,

where the anchors a are moving averages of D's logits over the steps so far; they begin at 0, where D is undecided.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fastdcgan.gan.models import Discriminator
from fastdcgan.gan.objectives import Objective

ANCHORS = "anchors"
"""Buffer [2] of D, fp32: the anchors of real and of fake. So they are saved and restored with it."""

DECAY = 0.99
"""The anchors' share in themselves at an update of D (the authors' code)."""


def add_anchors(discriminator: Discriminator) -> None:
    """Give D its buffer."""
    discriminator.register_buffer(ANCHORS, torch.zeros(2))


@dataclass(frozen=True, kw_only=True)
class LeCamObjective(Objective):
    """An objective with the second term in D's loss."""

    network: Discriminator
    """Holds the anchors."""

    weight: float
    all_reduce_mean: Callable[[list[Tensor]], list[Tensor]]
    """The mean of each tensor over all processes."""

    def discriminator(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> Tensor:
        """As `Objective.discriminator`."""
        anchor_real, anchor_fake = self._anchors.unbind()
        to_others = (_wide(logits_real_B) - anchor_fake).square().mean() + (
            _wide(logits_fake_B) - anchor_real
        ).square().mean()
        return super().discriminator(logits_real_B, logits_fake_B) + self.weight * to_others

    @torch.no_grad()
    def after_update(self, logits_real_B: Tensor, logits_fake_B: Tensor) -> None:
        """Let the anchors follow D's logits before its update, over all processes."""
        means = [torch.stack([_wide(logits_real_B).mean(), _wide(logits_fake_B).mean()])]
        (means_2,) = self.all_reduce_mean(means)
        self._anchors.lerp_(means_2.to(self._anchors.dtype), 1 - DECAY)

    @property
    def _anchors(self) -> Tensor:
        anchors = getattr(self.network, ANCHORS)
        assert isinstance(anchors, Tensor)
        return anchors


def _wide(logits_B: Tensor) -> Tensor:
    return logits_B.to(torch.promote_types(logits_B.dtype, torch.float32))
