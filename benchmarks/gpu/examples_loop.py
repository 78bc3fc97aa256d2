"""The loop of pytorch/examples' DCGAN (`dcgan/main.py`), in our own words: what most people train with.

NCHW, PyTorch's default Adam, cuDNN's benchmark mode, and the order of work: D on real pictures, backward; D on G's
pictures, backward; D's update; D on the same pictures again, backward through D into G; G's update. Three `.item()` a
step wait for the device. Left out, in its favour: loading, and the two more `.item()` of the losses that it prints.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from fastdcgan.gan.architecture import Architecture
from fastdcgan.tuning.implementations import random_batch, reference_implementation

REAL, FAKE = 1.0, 0.0

Figures = tuple[float, float, float]
"""D's mean probability of real for real pictures, for fakes before its update, and for fakes after it."""


def examples_step(
    arch: Architecture, batch: int, device: torch.device, amp: torch.dtype | None = None
) -> Callable[[], Figures]:
    """Its step on a batch that stays on the device.

    Args:
        arch: the networks.
        batch: pictures a step.
        device: where to run.
        amp: the networks run under autocast to this type, with a gradient scaler for fp16; None: in fp32.
    """
    networks = reference_implementation(arch, device)
    G, D = networks.generator, networks.discriminator
    optimizer_g, optimizer_d = networks.optimizer_g, networks.optimizer_d
    scaler = torch.amp.GradScaler(device.type, enabled=amp is torch.float16)
    bce = nn.BCELoss()
    real_BCHW, _ = random_batch(arch, batch, device)

    def autocast() -> AbstractContextManager[object]:
        return torch.autocast(device.type, amp, enabled=amp is not None)

    def judge(pictures_BCHW: Tensor, label: float) -> tuple[Tensor, Tensor]:
        """D's probabilities, and the loss against one label for all. BCELoss is refused under autocast."""
        with autocast():
            logits_B = D(pictures_BCHW)
        output_B = torch.sigmoid(logits_B.float())
        return output_B, bce(output_B, torch.full((batch,), label, device=device))

    def step() -> Figures:
        D.zero_grad()
        output_B, loss_real = judge(real_BCHW, REAL)
        scaler.scale(loss_real).backward()
        d_real = output_B.mean().item()

        z_BL = torch.randn(batch, arch.latent_dim, device=device)
        with autocast():
            fake_BCHW = G(z_BL)
        output_B, loss_fake = judge(fake_BCHW.detach(), FAKE)
        scaler.scale(loss_fake).backward()
        d_fake = output_B.mean().item()
        scaler.step(optimizer_d)
        scaler.update()

        G.zero_grad()
        output_B, loss_g = judge(fake_BCHW, REAL)
        scaler.scale(loss_g).backward()
        d_fooled = output_B.mean().item()
        scaler.step(optimizer_g)
        scaler.update()
        return d_real, d_fake, d_fooled

    return step
