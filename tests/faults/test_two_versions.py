"""Two versions of the package on one cache folder at the same time: each finds what it finds alone, or says in one line
what it can't.

The other version is a copy of this one in which whatever is cached has another format, and other content by which it
can be told.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from figures import Figure
from PIL import Image

import fastdcgan
from faults.sitting import LONG

pytestmark = pytest.mark.slow(25)

LOOKS, PROCESSES = (40, 3) if LONG else (8, 1)
"""Of each process; processes of each version."""

PACKAGE = Path(fastdcgan.__file__).parent

OTHER = {
    "data/pack.py": (("FORMAT = 1\n", "FORMAT = 2\n"), ("pictures_BHWC.numpy()", "(255 - pictures_BHWC).numpy()")),
    "data/folder.py": (("folder index 4", "folder index 5"),),
    "data/archives/shard_cache.py": (("fastdcgan shard 6", "fastdcgan shard 7"),),
    "data/decoding/picture.py": (('"empty file"', '"nothing in it"'),),
    "data/duplicates.py": (("FORMAT = 1\n", "FORMAT = 2\n"), ("if original != number:", "if not number:")),
    "data/tables/rows.py": (("FORMAT = 1\n", "FORMAT = 2\n"), ("_name(done - 1, row)", "_name(done, row)")),
    "data/faces/portrait.py": (("DRAWING_VERSION = 1\n", "DRAWING_VERSION = 2\n"), ("quality=92", "quality=30")),
    "evaluation/features.py": (("FORMAT = 1\n", "FORMAT = 2\n"), ("_features(batches(),", "1 + _features(batches(),")),
}
"""Files of the other version: what is replaced in each."""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The folder of the other version."""
    copy = tmp_path / "other" / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name, replacements in OTHER.items():
        text = (copy / name).read_text()
        for old, new in replacements:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        (copy / name).write_text(text)
    return copy.parent


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of pictures, a tar and, where it can be written, a table: with a copy and an empty file each."""
    pictures = [Image.linear_gradient("L").rotate(90 * n).resize((20 + n, 20)) for n in (0, 1, 2, 0)]
    files = [encoded(picture) for picture in pictures] + [b""]
    (folder := tmp_path / "data" / "folder").mkdir(parents=True)
    with tarfile.open(tmp_path / "data" / "a.tar", "w") as archive:
        for number, file in enumerate(files):
            (folder / f"{number}.png").write_bytes(file)
            archive.add(folder / f"{number}.png", f"{number}.png")
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        return tmp_path / "data"
    pyarrow.parquet.write_table(pyarrow.table({"image": files}), tmp_path / "data" / "a.parquet")
    return tmp_path / "data"


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def begin(version: Path, data: Path, cache: Path, looks: int) -> "subprocess.Popen[str]":
    environment = {"PYTHONPATH": str(version), "FASTDCGAN_CACHE": str(cache), "FASTDCGAN_ISA": "none"}
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("looks.py"), data, str(looks)],
        env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def seen(process: "subprocess.Popen[str]") -> list[dict[str, str] | str]:
    said, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    return [json.loads(line) for line in said.splitlines()]


def test_that_look_at_once(other: Path, data: Path, tmp_path: Path, figure: Figure) -> None:
    """While parts of the cache are removed under them."""
    versions = (PACKAGE.parent, other)
    alone = [begin(version, data, tmp_path / f"alone {n}", 1) for n, version in enumerate(versions)]
    (ours,), (theirs,) = (seen(process) for process in alone)
    assert isinstance(ours, dict) and isinstance(theirs, dict)
    assert all(ours[name] != theirs[name] for name in ours), "they could not be told apart"
    running = [(n, begin(version, data, tmp_path / "cache", LOOKS)) for n, version in enumerate(versions * PROCESSES)]
    refused = right = 0
    for number, process in running:
        for found in seen(process):
            if isinstance(found, str):
                assert "\n" not in found
                refused += 1
            else:
                assert found == (ours, theirs)[number % 2]
                right += 1
    assert right > refused
    counts = {"looks": right + refused, "as alone": right, "refused in one line": refused}
    figure("two versions on one cache that is removed in parts", counts)
