"""A run's folder, read from Python."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastdcgan.config import flat
from fastdcgan.runs.checkpoints.folder import list_checkpoints, step_in_name
from fastdcgan.runs.folder import RunFolder, read_config
from fastdcgan.telemetry.metrics import Record, read_metrics
from fastdcgan.telemetry.report.html import write_report


class Run:
    """A run, finished or not. Each property is read from its folder anew.

    >>> run = Run.open("runs/first")
    >>> run.metrics[-1].step, sorted(run.grids)
    (3, [0, 1, 2, 3])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """See `open`, which checks that it is one."""
        self.path = Path(path)
        self._folder = RunFolder(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """The run in a folder. Raises ValueError if there is none."""
        run = cls(path)
        read_config(run._folder)
        return run

    @property
    def config(self) -> dict[str, Any]:
        """Its options by name, without open ends. Raises ValueError if they can't be read."""
        return flat(read_config(self._folder))

    @property
    def metrics(self) -> list[Record]:
        """The lines of metrics.jsonl; none before the first. Raises ValueError if they can't be read."""
        return read_metrics(self._folder.metrics) if self._folder.metrics.exists() else []

    def frame(self) -> Any:
        """The metrics as a `pandas.DataFrame`: a column a field of `Record`, a row a line, with the step as index.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("pandas is not installed: pip install 'fastdcgan[notebook]'") from error
        names = list(Record.__dataclass_fields__)
        return pandas.DataFrame([asdict(record) for record in self.metrics], columns=names).set_index("step")

    @property
    def grids(self) -> dict[int, Path]:
        """Sample grids by step, from the same noise: PNG files."""
        files = ((step_in_name(file.with_suffix("")), file) for file in self._folder.samples.glob("step-*.png"))
        return dict(sorted((step, file) for step, file in files if step is not None))

    @property
    def checkpoints(self) -> dict[int, Path]:
        """Folders of checkpoints by step. Their content isn't checked."""
        return {
            step: path
            for path in list_checkpoints(self._folder.checkpoints)
            if (step := step_in_name(path)) is not None
        }

    @property
    def report(self) -> Path:
        """report.html; it is written where it is missing. Raises ValueError if it can't be."""
        if not self._folder.report.exists():
            write_report(self._folder)
        return self._folder.report

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)
