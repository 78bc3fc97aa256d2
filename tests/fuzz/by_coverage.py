"""Fuzz a door by coverage, with atheris (pip install atheris; it is in none of our extras):

    PYTHONPATH=.:tests python tests/fuzz/by_coverage.py DOOR CORPUS_FOLDER -max_total_time=600

Options are libFuzzer's. What reaches new code is kept in the folder; what breaks a door is written beside.
"""

import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["fastdcgan"]):
    from doors import DOORS

from damage import SPICES


def main() -> None:
    """The door's name is taken off the command line; the rest is libFuzzer's."""
    name, corpus = sys.argv[1], Path(sys.argv[2])
    door = DOORS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "whole").write_bytes(door.whole)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.environ["FASTDCGAN_CACHE"] = str(folder / "cache")
    (at := folder / "at").mkdir()
    words = folder / "words"
    spelt = ("".join(f"\\x{byte:02x}" for byte in spice[:60]) for spice in SPICES)
    words.write_text("".join(f'"{spice}"\n' for spice in spelt))

    def enter(data: bytes) -> None:
        try:
            door.enter(data, at)
        except ValueError as refusal:
            said = str(refusal)
            assert door.text or ("\n" not in said and said.isprintable()), said

    options = ["-max_len=65536", "-rss_limit_mb=4096", "-timeout=30", f"-dict={words}", *sys.argv[3:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], enter)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
