"""R1: D is held flat around real pictures, where it has nothing to tell (Mescheder et al. 2018, equation 9).

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
    """Updates of D by the R1 penalty alone.

    Args:
        discriminator: with PyTorch's own layers. Their classes may then be replaced by ours.
        optimizer: of D.
        gamma: the penalty is gamma / 2 times the mean squared length of D's gradient at real pictures.
        every: steps between updates.
        all_reduce_mean: the mean of each gradient over all processes.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        optimizer: torch.optim.Optimizer,
        gamma: float,
        every: int,
        all_reduce_mean: AllReduce,
    ) -> None:
        self._discriminator, self._optimizer = discriminator, optimizer
        self._classes = [(layer, type(layer)) for layer in discriminator.modules()]
        self._weight, self._every = gamma / 2 * every, every
        self._all_reduce_mean = all_reduce_mean

    def is_due(self, step: int) -> bool:
        """Whether an update follows a step, counted from 1."""
        return step % self._every == 0

    def update(self, real_BCHW: Tensor, parts: int = 1, labels_B: Tensor | None = None) -> None:
        """Update D.

        Args:
            real_BCHW: this process's, as D sees them.
            parts: micro-batches that they are taken in.
            labels_B: the class of each, where there are classes.
        """
        parameters = list(self._discriminator.parameters())
        with self._layers_of_pytorch():
            labels = [None] * parts if labels_B is None else labels_B.chunk(parts)
            of_parts = [
                self._gradients(real_bCHW, labels_b, parameters)
                for real_bCHW, labels_b in zip(real_BCHW.chunk(parts), labels, strict=True)
            ]
        means = [torch.stack(gradients).mean(0) for gradients in zip(*of_parts, strict=True)]
        for parameter, gradient in zip(parameters, self._all_reduce_mean(means), strict=True):
            # In the parameter's layout: fused Adam takes numbers in the order in which they lie in memory.
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _gradients(
        self, real_BCHW: Tensor, labels_B: Tensor | None, parameters: list[nn.Parameter]
    ) -> tuple[Tensor, ...]:
        real_BCHW = real_BCHW.detach().requires_grad_()
        logits_B = self._discriminator(real_BCHW, labels_B)
        (slope_BCHW,) = torch.autograd.grad(logits_B.sum(), real_BCHW, create_graph=True)
        penalty = self._weight * slope_BCHW.square().sum((1, 2, 3)).mean()
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
