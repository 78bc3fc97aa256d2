"""A run about to begin: what it was asked for, what was prepared for it, and when things happen in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from fastdcgan.config import TrainConfig, defaults_for
from fastdcgan.data.labels import Labels
from fastdcgan.data.order import steps_per_epoch
from fastdcgan.data.source import ImageSource
from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.execution.plan import Plan
from fastdcgan.gan.architecture import Architecture
from fastdcgan.gan.randomness import Stream
from fastdcgan.gan.step import TrainState
from fastdcgan.runs.checkpoints.record import Progress
from fastdcgan.runs.folder import RunFolder
from fastdcgan.runs.origin import Ancestor

EPOCHS, FEWEST_IMAGES = 20, 50_000
"""How long is trained where the user doesn't say: the greater of the two."""

BATCHES_AN_EPOCH, SMALLEST_BATCH = 150, 16
"""How small a batch few pictures are taken in where the user names none: of 2,500 faces, 390 steps of 128 made grey
noise, 3,120 of 16 made faces (docs/recipes.md)."""

FEW = 1_000
"""Fewer pictures may be learned by heart; `--recipe small-data` was tried on 400."""

GRIDS_PER_RUN, CHECKPOINTS_PER_RUN, MOST_STEPS_BETWEEN_CHECKPOINTS = 20, 10, 1000


@dataclass(frozen=True, kw_only=True)
class Due:
    """What is due after a step. Where a checkpoint is, figures are: only what is known to be finite is saved."""

    log: bool
    sample: bool
    save: bool
    evaluate: bool = False
    last: bool = False
    """No step of this session follows."""

    def before_stopping(self) -> "Due":
        """The same, and a checkpoint; but no evaluation, as who asks to stop wants to go."""
        return replace(self, log=True, save=True, evaluate=False, last=True)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When things happen, in steps."""

    per_epoch: int
    total: int
    log_every: int
    sample_every: int
    checkpoint_every: int
    evaluate_every: int | None = None

    @classmethod
    def of(cls, config: TrainConfig, count: int) -> "Schedule":
        """The schedule of a run over `count` pictures. Raises ValueError if they don't fill a batch."""
        taken, d_steps = config.images_a_step, config.recipe.d_steps
        per_epoch = steps_per_epoch(count, taken)
        if per_epoch == 0:
            for_each = f" for each of --d-steps {d_steps}" if d_steps > 1 else ""
            raise ValueError(
                f"--batch-size {config.data.batch_size}{for_each} is more than the {count} usable images in "
                f"{config.data.data}: use --batch-size {max(1, count // d_steps)} or less, or more images"
            )
        run = config.run
        if run.epochs is not None:
            total = run.epochs * per_epoch
        else:
            usual = defaults_for(config).images
            images = run.images or usual or max(EPOCHS * per_epoch * taken, FEWEST_IMAGES)
            total = math.ceil(images / taken)
        return cls(
            per_epoch=per_epoch,
            total=total,
            log_every=run.log_every,
            sample_every=run.sample_every or max(1, total // GRIDS_PER_RUN),
            checkpoint_every=run.checkpoint_every
            or min(MOST_STEPS_BETWEEN_CHECKPOINTS, max(1, total // CHECKPOINTS_PER_RUN)),
            evaluate_every=run.evaluate_every,
        )

    def due(self, step: int) -> Due:
        """What is due after a step, counted from 1. After the last one everything is."""
        last = step == self.total
        evaluate = self.evaluate_every is not None and (last or step % self.evaluate_every == 0)
        save = last or evaluate or step % self.checkpoint_every == 0  # the best can be kept only if it was saved
        return Due(
            log=save or step % self.log_every == 0,
            sample=last or step % self.sample_every == 0,
            save=save,
            evaluate=evaluate,
            last=last,
        )


def batch_for_few(config: TrainConfig, count: int, processes: int) -> int:
    """The configured batch, or a smaller power of two, so that `count` pictures are many steps.

    Not smaller than 16 for each part that BatchNorm sees, unless the pictures don't fill it (one batch for each of D's
    updates), and never what processes, --accumulate or --exact-ranks can't take in equal parts. Where none is left it
    stays as it is.
    """
    usual = cast(int, config.data.batch_size)
    for_one_update = count // config.recipe.d_steps
    parts = [divisor * config.recipe.accumulate for divisor in (processes, config.execution.exact_ranks or 1)]
    powers = (1 << power for power in range(usual.bit_length()))
    possible = [batch for batch in powers if batch <= for_one_update and not any(batch % part for part in parts)]
    wanted = max(for_one_update // BATCHES_AN_EPOCH, SMALLEST_BATCH * config.recipe.accumulate)
    return max((batch for batch in possible if batch <= wanted), default=min(possible, default=usual))


@dataclass(frozen=True, kw_only=True)
class Run:
    """What `setup` prepared for `fit`."""

    id: str
    """Made when it was begun; its checkpoints carry it."""

    config: TrainConfig
    arch: Architecture
    folder: RunFolder
    accelerator: Accelerator
    source: ImageSource
    plan: Plan
    why_this_plan: str
    state: TrainState
    schedule: Schedule
    start: Progress
    labels: Labels | None = None
    """Of the pictures, where their classes are learned."""

    noise: Stream = Stream.NOISE_BY_TABLE
    """What noise is drawn from: for a run begun by an earlier version, as it was drawn there."""

    ancestor: Ancestor | None = None
    """Whose weights it begins with, in this session; None: its own, or new ones."""

    changes: Sequence[object] = ()
    """From which steps on it went on with other options, and which, as config.json has it."""
