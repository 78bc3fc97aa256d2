"""end.json and the report, written when a training process ends."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from fastdcgan.limits.roofline import device_ceilings
from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.files import write_replacing
from fastdcgan.telemetry.report.html import write_report
from fastdcgan.telemetry.report.run_facts import CEILING_SECONDS
from fastdcgan.telemetry.terminal.display import Display


@contextmanager
def reporting(
    folder: RunFolder, device: torch.device, processes: int, display: Display, *, first: bool
) -> Iterator[None]:
    """Write end.json and the report when the block ends, also after an exception. A report that fails ends no run.

    Args:
        folder: of the run.
        device: that it trains on.
        processes: of the run.
        display: told, in a line, if the report can't be written.
        first: whether this process is rank 0, which writes.
    """
    failed = ""
    if first:
        with suppress(OSError):  # says how the session before has ended
            folder.end.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        failed = str(error) or type(error).__name__
        raise
    finally:
        if first:
            try:
                _write_end(folder, failed, device, processes)
                write_report(folder)
            except Exception as error:  # noqa: BLE001 (all of the run itself is written already)
                display.say(f"report    can't be written: {error}")


def _write_end(folder: RunFolder, failed: str, device: torch.device, processes: int) -> None:
    machine = None
    # One process of several would measure only its share of a CPU. GPUs are one a process, and known from datasheets.
    if not failed and (device.type != "cpu" or processes == 1):
        machine = device_ceilings(device, CEILING_SECONDS)
    record = {
        "failed": failed,
        "machine": machine and {"name": machine.name, "flops": machine.flops, "bytes": machine.bytes},
    }
    write_replacing(folder.end, json.dumps(record, indent=2) + "\n")
