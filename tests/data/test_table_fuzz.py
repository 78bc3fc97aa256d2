"""Damaged tables: one line of ours for what can't be read, never the end of the process, no picture lost in silence.

Each damaged file is read in a forked process: what its library does to it is seen as how that ends.
"""

import gc
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from by_hand import SECONDS as BY_HAND
from by_hand import keep, kept
from corrupted import damaged
from figures import Figure
from test_table_sources import BYTES, FILES, MADE, everything, hdf5, hdf5_encoded, lmdb_folder, pytestmark, source

from fastdcgan.data.tables import hdf5_process, reader
from fastdcgan.data.tables.hdf5_process import Hdf5Process
from fastdcgan.data.tables.row_process import RowProcess
from fastdcgan.data.tables.rows import Row, Table, open_rows

__all__ = ["pytestmark"]  # where a library is missing

FEW = {"LSUN's LMDB": 6, "encoded HDF5": 6, "HDF5": 6}
"""Damaged files in the quick tests, where each takes a process more."""

SECONDS = 120
"""For one file: where its library comes to no end, that is noticed after `PATIENCE`."""

PATIENCE = 10.0


class Outcome(NamedTuple):
    signal: int
    said: str
    """"", or what was wrong with how it was read."""

    used: int


def read_in_a_fork(spec: object, cache: Path) -> Outcome:
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        import signal

        signal.alarm(SECONDS)
        take_little_more_memory()
        os.environ["FASTDCGAN_CACHE"] = str(cache)
        reader.PATIENCE = PATIENCE
        used, said = 0, ""
        try:
            found = source(spec)
            used = sum(len(batch) for batch in found.read([range(len(found))]))
            listed = used + sum(skip.count for skip in found.skipped)
            if listed != len(FILES):
                said = f"{listed} of {len(FILES)} pictures are accounted for"
        except ValueError as refusal:
            line = str(refusal)
            said = "" if "\n" not in line and line.isprintable() and len(line) < 1000 else f"not one line: {line!r}"
        except BaseException as error:  # noqa: BLE001 (that is what is looked for)
            said = f"{type(error).__name__}: {error}"
        os.write(sending, f"{used} {said[:1000]}".encode())
        os._exit(0)
    os.close(sending)
    with os.fdopen(receiving, "rb") as answer:
        used, _, said = answer.read().decode().partition(" ")
    _, status = os.waitpid(child, 0)
    return Outcome(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, said, int(used or 0))


def take_little_more_memory() -> None:
    """2 GiB beside what this process has, which may be much; the libraries' own processes have a limit of theirs."""
    if sys.platform == "linux":
        import resource

        taken = re.search(r"VmData:\s*(\d+) kB", Path("/proc/self/status").read_text())
        assert taken is not None
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (int(taken[1]) * 1024 + 2**31, most))


def damaged_files(kind: str, whole: bytes, numbers: range, seconds: float) -> Iterator[tuple[int, bytes]]:
    """What is kept that has broken it before, those of some numbers, and for some seconds of numbers by chance."""
    chance, end = random.Random(), time.monotonic() + seconds
    yield from ((-1, data) for data in kept(kind))
    yield from ((number, damaged(whole, random.Random(f"{kind} {number}"))) for number in numbers)
    while time.monotonic() < end:
        yield (number := chance.getrandbits(40)), damaged(whole, random.Random(f"{kind} {number}"))


def check(kind: str, numbers: range, folder: Path, seconds: float = 0) -> dict[str, int]:
    """Returns how many files were tried, and of how many pictures were used."""
    made = Path(MADE[kind][0](folder))
    file = made if made.is_file() else next(path for path in sorted(made.rglob("*.*")) if path.name != "README.md")
    whole = file.read_bytes()
    assert read_in_a_fork(made, folder / "whole").used == len(FILES)
    tried = used = 0
    for number, data in damaged_files(kind, whole, numbers, seconds):
        file.write_bytes(data)
        outcome = read_in_a_fork(made, cache := folder / f"cache-{number}")
        if (outcome.signal, outcome.said) != (0, ""):
            keep(kind, data)
        assert (outcome.signal, outcome.said) == (0, ""), f"{kind}, number {number}"
        shutil.rmtree(cache, ignore_errors=True)
        tried, used = tried + 1, used + (outcome.used > 0)
    assert used < tried, "the files are not damaged enough to tell"
    return {"tried": tried, "refused": tried - used}


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize("kind", [kind for kind in MADE if kind != "parquet folder"])
def test_damage_is_refused_in_one_line_or_counted(kind: str, tmp_path: Path) -> None:
    check(kind, range(FEW.get(kind, 25)), tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.exhaustive) if kind == "encoded HDF5" else kind
        for kind in MADE
        if kind != "parquet folder"
    ],
)
@pytest.mark.timeout(0)
def test_much_damage_is_refused_in_one_line_or_counted(kind: str, tmp_path: Path, figure: Figure) -> None:
    most = 1150 if os.environ.get("FASTDCGAN_FAULTS") == "long" else 1050
    figure("damaged tables", check(kind, range(1000, most), tmp_path, BY_HAND))


def test_a_truncated_lmdb_ends_its_reader_and_not_us(tmp_path: Path) -> None:
    """LMDB reads beyond the end of a file that was cut off: a signal (SIGBUS)."""
    file = lmdb_folder(tmp_path) / "data.mdb"
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 3 * 4096)
    with pytest.raises(ValueError, match=r"damaged.*\(its library crashes: SIGBUS\)$") as raised:
        source(file.parent)
    assert "\n" not in str(raised.value)


def test_a_library_that_comes_to_no_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "PATIENCE", 0.5)
    program = tmp_path / "hangs.py"
    program.write_text("import sys, time\nsys.stdout.buffer.write(bytes(8))\nsys.stdout.flush()\ntime.sleep(60)\n")
    monkeypatch.setattr(reader.row_reader, "__file__", str(program))
    with pytest.raises(ValueError, match=r"damaged.*\(its library does not come to an end\)$"):
        list(RowProcess("lmdb", tmp_path).rows())


@pytest.mark.slow
def test_who_reads_slowly_is_given_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes long to write what was read is no fault of the table's."""
    import time

    monkeypatch.setattr(reader, "PATIENCE", 5.0)
    process = RowProcess("lmdb", lmdb_folder(tmp_path))
    found = []
    for row in process.rows():
        found.append(row)
        time.sleep(11 if len(found) == 1 else 0)
    assert [data for _, data in found] == FILES


@pytest.mark.parametrize(("there", "words"), [(2, "of 3 rows only 2 are there"), (4, "of 3 rows more are there")])
def test_rows_that_are_not_as_many_as_the_table_says(
    there: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTDCGAN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=rf"^a table: damaged: {words}$"):
        open_rows("a table", "", lambda: Table((Row(data) for data in FILES[:there]), 3))
    assert not list((tmp_path / "cache").rglob("*.tar"))


def test_a_length_that_hdf5_believes_takes_no_memory(tmp_path: Path) -> None:
    """The length of a picture is at the start of its entry: 4 bytes, and HDF5 makes room for what they say."""
    path = hdf5_encoded(tmp_path)
    data = bytearray(path.read_bytes())
    entry = data.index(len(FILES[3]).to_bytes(4, "little"))
    data[entry : entry + 4] = (2**32 - 1).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged: row \d+ can't be read .*memory"):
        source(path)


def test_what_is_damaged_in_an_array_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """The second chunk of three, of pictures 5 to 9, is compressed bytes that are none."""
    import h5py

    path = hdf5(tmp_path)
    with h5py.File(path) as file:
        chunk = file["set/images"].id.get_chunk_info(1)
    with path.open("r+b") as opened:
        opened.seek(chunk.byte_offset + 20)
        opened.write(bytes(200))
    process = Hdf5Process(path)
    (images,) = (found for found in process.datasets if found.key == "set/images")
    rows, seen = process.rows(images, [11, 3, 7, 4]), []
    with pytest.raises(ValueError, match=r"a\.hdf5: damaged: picture 7 can't be read \([^\n]+\)$"):
        seen.extend(rows)
    assert len(seen) == 2 and np.array_equal(seen, BYTES[[11, 3]])
    for numbers in ([0, 1, 2, 3, 4], [4, 2, 11]):
        assert np.array_equal(list(process.rows(images, numbers)), BYTES[numbers])


@pytest.mark.parametrize("together", [1, 3000, 2**20])
def test_rows_come_in_the_order_asked_for(together: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5_process, "READ_TOGETHER", together)
    found = source(hdf5(tmp_path))
    numbers = [[5, 6, 7, 8, 9], [9, 8, 9], [0], [], [11, 0, 1, 2, 3, 4]]
    for batch, pictures in zip(numbers, found.read(numbers), strict=True):
        assert np.array_equal(pictures.numpy(), BYTES[batch])


ANSWERS = """
import json, os, struct, sys, time
said = json.dumps([["images", "|u1", [12, 16, 16, 3], False]]).encode()
sys.stdout.buffer.write(struct.pack("<Q", len(said)) + said)
sys.stdout.flush()
sys.stdin.buffer.readline()
sys.stdout.buffer.write(struct.pack("<Q", 16 * 16 * 3) + bytes(16 * 16 * 3))
sys.stdout.flush()
sys.stdin.buffer.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such signals")
@pytest.mark.parametrize(
    ("does", "said"),
    [("os.kill(os.getpid(), 11)", "its library crashes: SIGSEGV"), ("time.sleep(60)", "does not come to an end")],
)
def test_an_arrays_library_that_crashes_or_hangs_later_ends_its_process_and_not_us(
    does: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "PATIENCE", 0.5)
    (tmp_path / "program.py").write_text(f"{ANSWERS}{does}\n")
    monkeypatch.setattr(reader.row_reader, "__file__", str(tmp_path / "program.py"))
    process = Hdf5Process(tmp_path / "a.h5")
    (images,) = process.datasets
    assert not next(process.rows(images, [3])).any()
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"damaged: picture 4 can't be read \(.*{said}\)$"):
            next(process.rows(images, [4]))


def test_the_process_ends_with_its_source(tmp_path: Path) -> None:
    children = psutil.Process().children
    before = set(children())
    found = source(hdf5(tmp_path))
    (reads,) = set(children()) - before
    assert np.array_equal(everything(found), BYTES)
    del found
    gc.collect()
    psutil.wait_procs([reads], timeout=10)
    assert not reads.is_running()
