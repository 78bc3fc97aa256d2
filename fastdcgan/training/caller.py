"""Who trains: the command line, whose process ends with the run, or a program that goes on afterwards."""

from contextlib import AbstractContextManager

from fastdcgan.runs.folder import RunFolder
from fastdcgan.storage.signals import StopRequests, stop_requests
from fastdcgan.telemetry.metrics import Record
from fastdcgan.telemetry.run_log import RunLog
from fastdcgan.telemetry.terminal.display import Display


class Caller:
    """What depends on who trains; here as it is for the command line. `api/training.py` has that of a program."""

    def stop_requests(self) -> AbstractContextManager[StopRequests]:
        """How the run is asked to stop."""
        return stop_requests()

    def display(self, folder: RunFolder, *, first: bool, quiet: bool, log: RunLog | None) -> Display:
        """Where the run is shown; `first`: on the main process, which shows it."""
        return Display(visible=first, quiet=quiet, log=log)

    def tick(self, record: Record, total: int) -> None:
        """Called on the main process after each line of metrics.jsonl; `total`: steps of the whole run."""
