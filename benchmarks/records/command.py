"""The command line of a record's file."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks.records.attempt import attempt
from benchmarks.records.track import LOGS, Record, Track
from benchmarks.records.verdict import FEWEST_SEEDS, Verdict


def run(file: str, track: Track, record: Record) -> None:
    """Try a record as its command line says. What the user can fix is one line and exit code 2."""

    def main(
        out: Annotated[Path, tyro.conf.Positional] = LOGS / f"{Path(file).stem}.jsonl",
        seeds: int = FEWEST_SEEDS,
        data: str | None = None,
        inception_weights: Path | None = None,
    ) -> None:
        """Train the record and the reference in turns, and say whether the claim holds.

        Args:
            out: the log: a line of JSON for each training. What it holds is not done again.
            seeds: of training, from 0; at least 2. Fewer than five show nothing.
            data: the folder with the track's pictures. Default: the cache folder; downloaded if they aren't there.
            inception_weights: torch-fidelity's file, for tracks to an FID. Default: downloaded.
        """
        if seeds < 2:
            raise ValueError(f"--seeds {seeds}: must be at least 2")
        pairs = attempt(track, record, out, seeds, data=data, weights=inception_weights)
        Console().print(str(Verdict.of(track, pairs)), highlight=False)

    try:
        tyro.cli(main)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
