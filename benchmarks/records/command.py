"""The command line of a record's file."""

from pathlib import Path
from typing import Annotated

import tyro

from benchmarks.records.track import FEWEST_SEEDS, Record, Track, attempt


def run(track: Track, record: Record) -> None:
    """Try a record as its command line says."""

    def main(out: Annotated[Path, tyro.conf.Positional], seeds: int = FEWEST_SEEDS) -> None:
        """Train the record and the reference in turns, and say whether the claim holds.

        Args:
            out: the log: a line of JSON for each training.
            seeds: of training, from 0.
        """
        attempt(track, record, out, seeds)

    tyro.cli(main)
