"""R1 and R2: D is held flat around real pictures, and around fake ones (Mescheder et al. 2018, equations 9 and 10).

R1 alone is common. A relativistic objective needs both (R3GAN: Huang et al. 2024, section 2).

Lazily, as in StyleGAN2 (Karras et al. 2020, section 3.1 and its code): not in each step, but as an update of D of its
own every so many steps, and as much stronger. So the step itself, however it is executed, is as without the penalty.

The penalty is a gradient's length, and its gradient a second derivative, which our kernels and graphs don't have. It is
taken in fp32 through PyTorch's own layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastdcgan.gan.models import Discriminator

AllReduce = Callable[[list[Tensor]], list[Tensor]]


class GradientPenalty:
    """Updates of D by the penalties alone.

    Args:
        discriminator: with PyTorch's own layers. Their classes may then be replaced by ours.
        optimizer: of D.
        r1: gamma of R1, which is gamma / 2 times the mean squared length of D's gradient at real pictures.
        r2: gamma of R2: the same at fake ones.
        every: steps between updates.
        all_reduce_mean: the mean of each gradient over all processes.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        optimizer: torch.optim.Optimizer,
        r1: float,
        r2: float,
        every: int,
        all_reduce_mean: AllReduce,
    ) -> None:
        self._discriminator, self._optimizer = discriminator, optimizer
        self._classes = [(layer, type(layer)) for layer in discriminator.modules()]
        self._r1, self._r2, self._every = r1, r2, every
        self._all_reduce_mean = all_reduce_mean

    def is_due(self, step: int) -> bool:
        """Whether an update follows a step, counted from 1."""
        return step % self._every == 0

    def update(
        self,
        real_BCHW: Tensor,
        generate: Callable[[], Tensor],
        parts: int = 1,
        labels_B: Tensor | None = None,
    ) -> None:
        """Update D.

        Args:
            real_BCHW: this process's, as D sees them.
            generate: makes as many fake pictures, as D sees them. It is called where R2 needs them.
            parts: micro-batches that they are taken in.
            labels_B: the class of each, where there are classes.
        """
        parameters = list(self._discriminator.parameters())
        sides = [(self._r1, real_BCHW)] if self._r1 else []
        if self._r2:
            sides.append((self._r2, generate()))
        with self._layers_of_pytorch():
            labels = [None] * parts if labels_B is None else labels_B.chunk(parts)
            terms = [
                self._gradients(gamma / 2 * self._every / parts, part_bCHW, labels_b, parameters)
                for gamma, pictures_BCHW in sides
                for part_bCHW, labels_b in zip(pictures_BCHW.chunk(parts), labels, strict=True)
            ]
        sums = [torch.stack(gradients).sum(0) for gradients in zip(*terms, strict=True)]
        for parameter, gradient in zip(parameters, self._all_reduce_mean(sums), strict=True):
            # In the parameter's layout: fused Adam takes numbers in the order in which they lie in memory.
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _gradients(
        self, weight: float, pictures_BCHW: Tensor, labels_B: Tensor | None, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, ...]:
        """Of the mean squared length of D's gradient at these pictures, times a weight."""
        pictures_BCHW = pictures_BCHW.detach().requires_grad_()
        logits_B = self._discriminator(pictures_BCHW, labels_B)
        (slope_BCHW,) = torch.autograd.grad(logits_B.sum(), pictures_BCHW, create_graph=True)
        penalty = weight * slope_BCHW.square().sum((1, 2, 3)).mean()
        # Where the penalty doesn't depend on a parameter, 0: all have taken as many steps of Adam.
        return torch.autograd.grad(penalty, parameters, materialize_grads=True)

    @contextmanager
    def _layers_of_pytorch(self) -> Iterator[None]:
        """Within this context D's layers are of the classes that they had at first."""
        ours = [(layer, type(layer)) for layer, _ in self._classes]
        try:
            for layer, kind in self._classes:
                layer.__class__ = kind
            yield
        finally:
            for layer, kind in ours:
                layer.__class__ = kind
