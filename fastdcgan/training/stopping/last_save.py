"""What was learned is saved before a run ends by an error that isn't training's own, if that can be done."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

from fastdcgan.distributed.accelerator import Accelerator
from fastdcgan.distributed.collectives import broadcast_object, gather_objects
from fastdcgan.storage.signals import EndedTogetherError
from fastdcgan.training.recorder import Recorder
from fastdcgan.training.stopping.fault import agree


def end_together(recorder: Recorder, accelerator: Accelerator, step: int) -> NoReturn:
    """Save what all processes have learned, once they know that one of them can't go on. All call it.

    Args:
        recorder: of this process, with its fault if it has one.
        accelerator: by which they talk.
        step: the last step; all steps may have been taken with blank pictures since one lost its own.

    Raises:
        EndedTogetherError: which process, what it met, and where the run stands.
    """
    agreed = agree(gather_objects(accelerator, recorder.fault.met))
    if agreed.whole_step is None:
        where = save_after_error(recorder, accelerator, step)
    else:
        whole = broadcast_object(accelerator, recorder.fault.whole, source=agreed.keeper)
        where = save_after_error(recorder, accelerator, agreed.whole_step, partial(recorder.save_whole, whole))
    accelerator.wait_for_everyone()  # a launcher ends all when the first one leaves
    raise EndedTogetherError(f"{agreed.message}; {where}")


def save_after_error(
    recorder: Recorder, accelerator: Accelerator, step: int, save: Callable[[int], None] | None = None
) -> str:
    """Save what was learned since the last checkpoint, if possible.

    Args:
        recorder: of this process.
        accelerator: by which several talk.
        step: the last step.
        save: how it is saved, if not as ever.

    Returns:
        for people: where the run stands.
    """
    # Another checkpoint may be under way, or have failed as well.
    with suppress(ValueError):
        recorder.wait_for_checkpoint()
    try:
        if broadcast_object(accelerator, step > recorder.saved_step):
            (save or recorder.save_last)(step)
    except ValueError:  # it can't be; nor the plot, when all else is
        pass
    with suppress(ValueError):
        recorder.wait_for_checkpoint()
    return broadcast_object(accelerator, _where(recorder, step))


def _where(recorder: Recorder, step: int) -> str:
    if 0 < step == recorder.saved_step:
        return f"what was learned until step {step:,} is saved; the same command goes on from there"
    if last := recorder.last_checkpoint():
        return f"the last good checkpoint is {last}; the same command goes on from there"
    return "no checkpoint was written yet; the same command begins anew"
