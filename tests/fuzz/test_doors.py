"""Whatever comes in by a door, nothing comes out but one line of ours.

A few examples a door among the quick tests, more among the slow ones; by hand, each for so many seconds (`by_hand.py`).
`by_coverage.py` goes on from the same doors by what code is reached.
"""

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from by_hand import SECONDS, keep, kept
from damage import bytes_for
from doors import DOORS, Door
from figures import Figure
from hypothesis import HealthCheck, given, seed, settings

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


def enter(door: Door, data: bytes, at: Path) -> bool:
    """Whether the bytes are refused, which is checked to be done as it should be."""
    try:
        door.enter(data, at)
    except ValueError as refusal:
        words = str(refusal)
        assert words
        assert door.text or ("\n" not in words and words.isprintable() and len(words) < 20_000), words
        return True
    return False


def go_through(name: str, at: Path, examples: int, *, by_chance: int | None = None) -> Counter[str]:
    """Returns how many were tried, and how many of them refused."""
    door, refused, tried = DOORS[name], 0, 0

    @settings(
        max_examples=examples if not door.slow else max(2, examples // 10),
        deadline=DEADLINE,
        derandomize=by_chance is None,
        database=None,  # hypothesis keeps nothing of what is drawn by a seed: `kept` does
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(bytes_for(door.whole))
    def enter_and_keep(data: bytes) -> None:
        nonlocal refused, tried
        tried += 1
        try:
            refused += enter(door, data, at)
        except BaseException:
            keep(name, data)
            raise

    (enter_and_keep if by_chance is None else seed(by_chance)(enter_and_keep))()
    return Counter({"tried": tried, "refused": refused})


@pytest.mark.parametrize("name", DOORS)
def test_what_is_whole_comes_in(name: str, at: Path) -> None:
    DOORS[name].enter(DOORS[name].whole, at)


@pytest.mark.parametrize("name", DOORS)
def test_nothing_but_our_own_refusals(name: str, at: Path) -> None:
    go_through(name, at, FEW)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", DOORS)
def test_nor_of_more_of_them(name: str, at: Path, figure: Figure) -> None:
    for data in kept(name):
        enter(DOORS[name], data, at)
    found = go_through(name, at, MORE)
    assert DOORS[name].lenient or found["refused"] > MORE / 10, "they are not damaged enough to tell"
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        found += go_through(name, at, MANY, by_chance=int.from_bytes(os.urandom(4)))
    figure("bytes through all doors", found)
