"""The moving average of G, which pictures are made with: the same network, without the last steps' noise.

Yazici et al. 2019, "The Unusual Effectiveness of Averaging in GAN Training"; the ramp at the beginning is that of
StyleGAN2 (Karras et al. 2020, training loop). Training itself never reads it.
"""

import copy
import math
from itertools import chain

from torch import Tensor, nn

from fastdcgan.config import RecipeConfig
from fastdcgan.private_torch import foreach_lerp_

RAMP = RecipeConfig().ema_ramp
"""The average's half-life is at most this part of the steps so far, if not said: it forgets how the run began."""

EVERY = 8
"""Steps between updates, once `EACH_UNTIL` are over. The weights hardly move in so few, and to read all of them at each
took 3 % of a step of small batches, and longer than all else that the host does beside it."""

EACH_UNTIL = 64
"""Steps each of which is taken in, so that a short run has an average too."""

_PIECE = 32_000
"""Numbers mixed at a time on the CPU: too few for PyTorch to divide among threads. Where another program is busy, the
loop would wait at each step for the slowest of them, for longer than the whole average takes."""


class MovingAverage:
    """An exponential moving average of a network's parameters and BatchNorm's statistics.

    Args:
        network: the plain module, on its device. It is copied, layout and layers' classes too.
        decay: what the average keeps of itself at each step, in (0, 1), once the ramp is over.
        ramp: the half-life is at most this part of the steps so far, in (0, 1].
    """

    def __init__(self, network: nn.Module, decay: float, ramp: float = RAMP) -> None:
        self.decay, self.ramp = decay, ramp
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._averaged, self._current = _numbers(self.network), _numbers(network)

    def update(self, step: int) -> None:
        """Take in the network as it is after a step, counted from 1, for all steps since the last update.

        Doesn't wait for the device. Most steps are no update's: what happens is a function of the step.
        """
        if (steps := steps_taken_in(step)) > 0:
            foreach_lerp_(self._averaged, self._current, 1 - decay_at(step, self.decay, self.ramp) ** steps)


def _numbers(network: nn.Module) -> list[Tensor]:
    """Parameters and statistics, on the CPU in pieces; not how many batches BatchNorm has seen: no picture needs it."""
    tensors = chain(network.parameters(), network.buffers())
    numbers = [tensor.detach() for tensor in tensors if tensor.is_floating_point()]
    return [piece for tensor in numbers for piece in (_pieces(tensor) if tensor.device.type == "cpu" else (tensor,))]


def _pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Views of rows that together have at most `_PIECE` numbers, or of one row, in any memory layout."""
    pieces: tuple[Tensor, ...] = tensor.split(max(1, _PIECE * len(tensor) // max(1, tensor.numel())))
    return pieces


def decay_at(step: int, decay: float, ramp: float = RAMP) -> float:
    """The average's share in an update for one step, counted from 1: 0 means that the network replaces it."""
    return min(decay, math.pow(0.5, 1 / (ramp * step)))


def steps_taken_in(step: int) -> int:
    """How many steps the update after a step stands for; 0: there is none."""
    if step <= EACH_UNTIL:
        return 1
    return EVERY if step % EVERY == 0 else 0


def half_life(decay: float) -> float:
    """Steps after which what the network was has half of its share in the average."""
    return math.log(0.5, decay)
