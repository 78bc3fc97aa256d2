"""Going on in a run from an earlier checkpoint, or with other options: --from-step."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from fastdcgan.config import TrainConfig, differing_fields
from fastdcgan.evaluation.records import append_evaluations, evaluations_after
from fastdcgan.runs.checkpoints.folder import checkpoint_named, list_checkpoints, read_best, step_in_name
from fastdcgan.runs.folder import CHANGES, RunFolder, converting_write_errors, read_condition, read_config
from fastdcgan.storage.files import make_folder, write_replacing
from fastdcgan.storage.wording import counted
from fastdcgan.telemetry.metrics import read_metrics


@dataclass(frozen=True, kw_only=True)
class WentBack:
    """How a run goes on, by --from-step."""

    step: int | None
    """To whose checkpoint it goes back; None: to none, it goes on from the newest."""

    changes: list[str]
    """Options with other values from there on, as `--lr: 0.0002, now 0.0001`."""


def asked_to_go_back(config: TrainConfig, folder: RunFolder) -> WentBack | None:
    """What --from-step asks for, and is not done yet: the same command, given again, goes on.

    Raises:
        ValueError: there is no such checkpoint.
    """
    if config.run.from_step is None:
        return None
    former = read_config(folder)
    changes = differing_fields(former, config)
    if config.run.from_step == "latest":
        return WentBack(step=None, changes=changes) if changes else None
    if former.run.from_step == config.run.from_step and not changes:
        return None
    step = int(config.run.from_step)
    checkpoint_named(folder, step)
    return WentBack(step=step, changes=changes)


def set_aside_after(folder: RunFolder, step: int) -> str:
    """Move what came after a step into a new folder below `folder.set_aside`: checkpoints, grids, lines of metrics
    and of evaluations.

    The checkpoints go last: who is killed meanwhile has lost nothing, and goes back again.

    Returns:
        for people: what was moved, and where to; empty if there was nothing.

    Raises:
        ValueError: the lines can't be read.
        WriteError: it can't be moved.
    """
    later = [path for path in list_checkpoints(folder.checkpoints) if _step(path) > step]
    grids = [path for path in sorted(folder.samples.glob("step-*.png")) if _step(path.with_suffix("")) > step]
    written = read_metrics(folder.metrics) if folder.metrics.exists() else []
    records = [record for record in written if record.step > step]
    with converting_write_errors(folder.evaluations):
        evaluations = evaluations_after(folder.evaluations, step)
    if not (later or grids or records or evaluations):
        return ""
    number = 1
    while (place := folder.set_aside / str(number)).exists():
        number += 1
    with converting_write_errors(place):
        make_folder(folder.set_aside)
        for below in ("samples", "checkpoints"):
            make_folder(place / below)
        write_replacing(place / folder.metrics.name, "".join(json.dumps(asdict(record)) + "\n" for record in records))
        append_evaluations(place / folder.evaluations.name, evaluations)
        with suppress(ValueError):  # there is none
            if read_best(folder).step > step:
                folder.best.rename(place / folder.best.name)
        for path in (*grids, *reversed(later)):
            path.rename(place / path.relative_to(folder.path))
    files = f"{counted(len(later), 'checkpoint')}, {counted(len(grids), 'grid')}"
    return f"{files}, {counted(len(records), 'line')} of figures and {len(evaluations):,} of evaluations are in {place}"


def all_changes(folder: RunFolder, back: WentBack | None, step: int) -> list[object]:
    """The condition CHANGES: what was noted before, and what is changed from a step on."""
    noted = read_condition(folder, CHANGES)
    former: list[object] = noted if isinstance(noted, list) else []
    if back is None:
        return former
    return [*former, {"from_step": step, "options": back.changes}]


def _step(path: Path) -> int:
    found = step_in_name(path)
    return -1 if found is None else found
