"""How commands end whose output nobody reads, or finds no space: without a traceback, and with what they do done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

READERLESS = (0, 141)
"""Done before it was noticed, or as SIGPIPE ends a program."""

PROGRAM = (sys.executable, "-m", "fastdcgan")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        Image.new("RGB", (40, 50), (number * 60, 10, 200)).save(folder / f"{number}.png")
    return folder


def readerless(*command: object, stream: str = "stdout") -> tuple[int, str]:
    """Run a command that writes to a pipe that nobody reads. Returns its exit code and what it said elsewhere."""
    reading, writing = os.pipe()
    os.close(reading)
    other = "stderr" if stream == "stdout" else "stdout"
    try:
        done = subprocess.run(
            [*map(str, command)],
            **{stream: writing, other: subprocess.PIPE},  # type: ignore[call-overload]
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            timeout=300,
        )
    finally:
        os.close(writing)
    return done.returncode, getattr(done, other).decode()


@pytest.mark.parametrize(
    "arguments", [("--help",), ("train", "--help"), ("tune", "--help"), ("scale",)], ids=lambda words: " ".join(words)
)
def test_a_reader_that_has_left_ends_it_quietly(arguments: tuple[str, ...]) -> None:
    assert readerless(*PROGRAM, *arguments) == (141, "")


def test_so_does_train_py() -> None:
    assert readerless(sys.executable, "train.py", "--help") == (141, "")


def progress_and_tables(photos: Path, out: Path) -> list[tuple[object, ...]]:
    """Commands that show progress or tables; the last one trains."""
    network, on = ("--arch", "dcgan16", "--width", 4, "--batch-size", 2), ("--device", "cpu")
    tune = ("tune", *network, *on, "--compile", "off", "--seconds", 1)
    train = ("train", "--data", photos, "--out", out, *network, *on, "--images", 200)
    return [("roofline", *network), ("data", photos), ("pack", photos), tune, train]


@pytest.mark.slow(35)
def test_so_do_progress_and_tables(photos: Path, tmp_path: Path) -> None:
    for arguments in progress_and_tables(photos, tmp_path / "out"):
        assert readerless(*PROGRAM, *arguments) == (141, ""), arguments[0]
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"the folder can be gone on with: {done.stderr}"


def test_a_complaint_that_nobody_reads() -> None:
    code, said = readerless(*PROGRAM, "train", "--epochs", "0", stream="stderr")
    assert code == 141 and said.strip() == ""


def test_another_broken_pipe_is_not_passed_over() -> None:
    code = "from fastdcgan.cli.endings import reported\nwith reported(): raise BrokenPipeError(32, 'of a helper')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and "of a helper" in done.stderr


@pytest.fixture
def full_disk() -> Path:
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("Linux's")
    return device


FULL = "fastdcgan: error: can't write the output: No space left on device\n"


def on_full_disk(device: Path, *command: object, buffered: bool = True) -> tuple[int, str]:
    """Run a command whose output finds no space. Returns its exit code and what it complained."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with device.open("wb") as full:
        done = subprocess.run(
            list(map(str, command)), stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environ, timeout=300
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [("--help",), ("tune", "--help"), ("scale",)], ids=lambda words: " ".join(words))
def test_output_that_finds_no_space(arguments: tuple[str, ...], buffered: bool, full_disk: Path) -> None:
    assert on_full_disk(full_disk, *PROGRAM, *arguments, buffered=buffered) == (2, FULL)


@pytest.mark.slow(35)
@pytest.mark.exhaustive
def test_tables_and_progress_that_find_no_space(photos: Path, tmp_path: Path, full_disk: Path) -> None:
    for arguments in progress_and_tables(photos, tmp_path / "out"):
        if arguments[0] == "tune":  # its table is written as the others are, and takes as long as all of them
            continue
        code, said = on_full_disk(full_disk, *PROGRAM, *arguments)
        assert (code, said.splitlines()[-1:]) == (2, FULL.splitlines()), said
        assert "Traceback" not in said
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, f"the folder can be gone on with: {done.stderr}"


def test_complaints_that_find_no_space(full_disk: Path) -> None:
    with full_disk.open("wb") as full:
        command = [*PROGRAM, "train", "--epochs", "0"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=full, cwd=ROOT, check=False)
        assert (done.returncode, done.stdout.strip()) == (2, b"")
        done = subprocess.run([*PROGRAM, "--help"], stdout=full, stderr=full, cwd=ROOT, check=False)
        assert done.returncode == 2


def test_a_full_disk_elsewhere_is_not_passed_over() -> None:
    code = "from fastdcgan.cli.endings import reported\nwith reported(): raise OSError(28, 'of a helper')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1 and "of a helper" in done.stderr


def test_streams_that_are_closed(photos: Path, tmp_path: Path) -> None:
    """What is printed must not get into a file that was opened since, either."""
    for closed, arguments, code in (
        (">&-", ("--help",), 0),
        (">&- 2>&- <&-", ("scale",), 0),
        (">&- 2>&- <&-", ("data", photos, "--out", tmp_path / "sheet.png"), 0),
        ("2>&-", ("train", "--epochs", "0"), 2),
        (">&-", ("train", "--epochz", "3"), 2),
    ):
        shell = ("sh", "-c", f'exec "$@" {closed}', "sh")
        done = subprocess.run([*shell, *PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
        said = "fastdcgan: error: unrecognized options: --epochz, 3; perhaps you meant: --epochs INT\n"
        assert done.returncode == code and done.stdout == "", done
        assert done.stderr == (said if closed == ">&-" and code else ""), done
    with Image.open(tmp_path / "sheet.png") as sheet:
        sheet.verify()


def test_a_path_that_the_console_cannot_show_is_escaped(photos: Path, tmp_path: Path) -> None:
    """A console of Windows that isn't Unicode."""
    command = [*PROGRAM, "data", str(photos), "--out", str(tmp_path / "\u9762.png")]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "cp1252"}, cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\u9762.png" in done.stdout and (tmp_path / "\u9762.png").exists()
