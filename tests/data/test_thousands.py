"""Three thousand good files of every kind among three hundred bad ones, in a process whose memory is watched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from corpus import PHOTOS, encode
from thousands import BAD, GOOD, write_thousands

from fastdcgan.data.decoding.dali import dali_available
from fastdcgan.storage.printable import printable

needs_dali = pytest.mark.skipif(not dali_available(), reason="DALI is not installed")

MEMORY = """
import importlib, json, sys
from pathlib import Path
import numpy as np
import torch
from fastdcgan.data.decoding import dali
from fastdcgan.data.decoding.dali import DaliSource, dali_available
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.folder import scan_folder
from fastdcgan.data.decoding.pillow import PillowSource

if dali_available():
    importlib.import_module("nvidia.dali")

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

imported = peak()
"""

ALL_OF_IT = """
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
index = scan_folder(folder)
batches = [list(range(len(index)))[start : start + 64] for start in range(0, len(index), 64)]
sources = {"pillow": PillowSource(index, frame=Frame.of(32), channels=3, threads=2)}
if dali_available():
    sources["dali"] = DaliSource(index, frame=Frame.of(32), channels=3, device=None, threads=2)
for name, source in sources.items():
    np.save(out / name, torch.cat(list(source.read(batches))).numpy())
(out / "told.json").write_text(json.dumps({
    "pictures": [picture.path for picture in index.pictures],
    "plain": [picture.plain for picture in index.pictures],
    "skipped": [[skip.path, skip.reason, skip.not_a_picture] for skip in index.skipped],
    "peak": peak() - imported,
}))
"""

MOST_MEMORY = 400
"""MiB above the imports, for the corpus."""


def run(code: str, *arguments: object, cache: Path) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", MEMORY + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"FASTDCGAN_CACHE": str(cache)},
    )
    # DALI's libjpeg tells the terminal of damage that it and Pillow don't mind.
    # And Pillow's libtiff, of all damage.
    spoken = ("Corrupt JPEG data", "Fax", "JPEGLib", "ZIPDecode", "LZWDecode", "tempfile.tif", "TIFF")
    told = [line for line in ran.stderr.splitlines() if not line.startswith(spoken)]
    assert (ran.returncode, told) == (0, []), ran.stderr
    return ran.stdout


@pytest.mark.slow
def test_every_good_file_is_used_and_every_bad_one_named(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    good, bad = write_thousands(folder)
    assert (len(good), len(bad)) == (GOOD, BAD)
    assert run(ALL_OF_IT, folder, tmp_path, cache=tmp_path / "cache") == ""
    told = json.loads((tmp_path / "told.json").read_text())
    assert set(told["pictures"]) == {f"{folder}/{name}" for name in good}
    assert {path for path, _, _ in told["skipped"]} == {printable(folder / name) for name in bad}
    assert all(0 < len(reason) < 80 for _, reason, _ in told["skipped"])
    assert told["peak"] < MOST_MEMORY
    expected = np.load(tmp_path / "pillow.npy").astype(int)
    assert expected.shape == (GOOD, 32, 32, 3)
    if not dali_available():
        return
    difference = abs(np.load(tmp_path / "dali.npy") - expected)
    for path, plain, levels in zip(told["pictures"], told["plain"], difference, strict=True):  # as in test_dali.py
        assert levels[1:-1, 1:-1].max() <= (1 if plain else 0), path
        assert levels.max() <= (24 if plain else 0), path
        assert levels.mean() <= 0.35, path


LARGE_BATCHES = """
index = scan_folder(sys.argv[1])
source = DaliSource(index, frame=Frame.of(64), channels=3, device=None, threads=2)
for pictures in source.read([list(range(64))]):
    assert pictures.shape == (64, 64, 64, 3)
print(peak() - imported)
"""


@needs_dali
def test_a_batch_of_large_photographs_takes_little_memory(tmp_path: Path) -> None:
    """64 photographs of 8 megapixels take 1.6 GiB in one piece, as measured, and 0.2 GiB in several."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(encode(PHOTOS[0].resize((3464, 2309)), "JPEG"))
    for number in range(1, 64):
        os.link(folder / "0.jpg", folder / f"{number}.jpg")
    assert float(run(LARGE_BATCHES, folder, cache=tmp_path / "cache")) < 500
