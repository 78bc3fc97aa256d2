"""Whatever comes in by a door, nothing comes out but one line of ours.

A few examples a door among the quick tests, more among the slow ones. By hand, each door for so many seconds, with all
that was found kept and tried first the next time:

    FASTDCGAN_FUZZ=600 FASTDCGAN_FUZZ_CORPUS=~/corpus pytest tests/fuzz -k tar

`by_coverage.py` goes on from the same doors by what code is reached.
"""

import os
import resource
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from damage import bytes_for
from doors import DOORS, Door
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.database import DirectoryBasedExampleDatabase

SECONDS = float(os.environ.get("FASTDCGAN_FUZZ", "0"))
CORPUS = os.environ.get("FASTDCGAN_FUZZ_CORPUS")

FEW, MORE, MANY = 4, 30, 100
"""Examples, and a tenth as many of what draws reports."""

MEMORY = 2**31
"""Bytes of address space that a door may take. Its bytes are a few thousand."""

DEADLINE = timedelta(seconds=20)
"""For one example: a hundred times what the slowest takes, on a busy machine too."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    if not sys.platform.startswith("linux"):
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "at").mkdir()
    return tmp_path / "at"


def go_through(door: Door, at: Path, examples: int, *, by_chance: int | None = None) -> int:
    """Returns how many were refused."""
    refused = 0

    @settings(
        max_examples=examples if not door.slow else max(2, examples // 10),
        deadline=DEADLINE,
        derandomize=by_chance is None,
        database=DirectoryBasedExampleDatabase(CORPUS) if CORPUS and by_chance is not None else None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(bytes_for(door.whole))
    def enter(data: bytes) -> None:
        nonlocal refused
        try:
            door.enter(data, at)
        except ValueError as refusal:
            refused += 1
            words = str(refusal)
            assert door.text or ("\n" not in words and words.isprintable()), words
            assert words and len(words) < 20_000, words

    (enter if by_chance is None else seed(by_chance)(enter))()
    return refused


@pytest.mark.parametrize("name", DOORS)
def test_what_is_whole_comes_in(name: str, at: Path) -> None:
    DOORS[name].enter(DOORS[name].whole, at)


@pytest.mark.parametrize("name", DOORS)
def test_nothing_but_our_own_refusals(name: str, at: Path) -> None:
    go_through(DOORS[name], at, FEW)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", DOORS)
def test_nor_of_more_of_them(name: str, at: Path) -> None:
    door = DOORS[name]
    refused = go_through(door, at, MORE)
    assert door.lenient or refused > MORE / 10, "they are not damaged enough to tell"
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        go_through(door, at, MANY, by_chance=int.from_bytes(os.urandom(4)))
