"""Files of many pictures: a folder of PNGs, a `.npy`, a `.npz`, a `.tar`, or one PNG of all as a grid.

Each takes batches of pictures from where an earlier go has left off, and says how many are done. All but the grid,
which is small, are gone on with after a kill, and are then byte for byte what they would have been.
"""

import io
import json
import math
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastdcgan.gan.architecture import Size
from fastdcgan.runs.classes import MOST_ROWS
from fastdcgan.runs.pictures.stream import in_order
from fastdcgan.runs.pictures.unfinished import locked, refuse_another_request, unfinished
from fastdcgan.runs.sampling import grid_columns
from fastdcgan.storage.files import read_json, remove_unfinished, replacing, write_replacing

Format = Literal["grid", "png", "npy", "npz", "tar"]

MAX_GRID_BYTES = 2**28
"""Of a grid's pixels: 21,000 pictures of 64x64 in colour."""

RECORD_NAME = "generated.json"
"""In a folder of PNGs: what they were made with. `value_range` in it are the data's values that 0 and 255 stand for."""

ARRAY_NAME = "arr_0.npy"
"""In a `.npz`: as `numpy.savez` calls it, and as programs that evaluate samples look for it."""

_PADDING = 2
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"

Batches = Callable[[int], Iterator[NDArray[Any]]]
"""From the number of the first picture to [B, H, W, C]."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What there is to write."""

    count: int
    size: Size
    channels: int
    batch: int
    """Pictures a batch: what is gone on with begins at a multiple of it."""

    batches: Batches
    dtype: np.dtype[Any]
    """Of what `batches` gives: only arrays take another than uint8."""

    name: Callable[[int], str]
    """A picture's, without a suffix, by its number."""

    request: dict[str, Any]
    """What they are a function of, as JSON has it."""

    on_progress: Callable[[int], None] = lambda done: None
    """Told how many are written."""

    classes: int = 0
    """How many classes they are of in turn; 0: of none."""


def png_bytes(picture_HWC: NDArray[np.uint8]) -> bytes:
    """A PNG of a picture of 1, 3 or 4 channels: greyscale, RGB, or RGB and alpha.

    Runs alone are looked for (Z_RLE): for pictures as small as these a PNG is as large as at zlib's usual level 6, in
    half the time. Pillow spends most of the rest on trying five filters a row; with imagecodecs (the extra `png`) the
    differences from the row above are taken, for at most 20 % more bytes in a third of the time.
    """
    pixels = np.ascontiguousarray(picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC)
    if (codec := _fast_codec()) is not None:
        return bytes(codec.png_encode(pixels, level=1, strategy=codec.PNG.STRATEGY.RLE, filter=codec.PNG.FILTER.UP))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()


@cache
def _fast_codec() -> Any:
    """The module imagecodecs; None where it is missing, or was built without PNG."""
    try:
        import imagecodecs
    except ImportError:
        return None
    return imagecodecs if imagecodecs.PNG.available else None


def write_grid(pictures: Pictures, path: Path) -> None:
    """One PNG, as `tiled` arranges them. Raises ValueError where they are too many for one."""
    canvas_HWC = tiled(pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        _as_image(canvas_HWC).save(file, format="PNG")


def tiled(pictures: Pictures) -> NDArray[np.uint8]:
    """A grid [H, W, C], about as high as wide, row by row; of few classes with a row for each.

    Raises:
        ValueError: they are too many for one.
    """
    columns = grid_columns(pictures.count, pictures.size)
    if has_row_a_class := 1 < pictures.classes <= min(MOST_ROWS, pictures.count):
        columns = math.ceil(pictures.count / pictures.classes)
    rows, cell = math.ceil(pictures.count / columns), Size(*(side + _PADDING for side in pictures.size))
    height, width = rows * cell.height + _PADDING, columns * cell.width + _PADDING
    if height * width * pictures.channels > MAX_GRID_BYTES:
        raise ValueError(
            f"{pictures.count:,} pictures are too many for one grid of {width:,} x {height:,} pixels: "
            "let --out be a folder, or end in .npy, .npz or .tar"
        )
    canvas_HWC = np.zeros((height, width, pictures.channels), np.uint8)
    number = 0
    for pictures_NHWC in pictures.batches(0):
        for picture_HWC in pictures_NHWC:
            row, column = divmod(number, columns)
            if has_row_a_class:
                column, row = divmod(number, pictures.classes)
            top, left = row * cell.height + _PADDING, column * cell.width + _PADDING
            canvas_HWC[top:, left:][: pictures.size.height, : pictures.size.width] = picture_HWC
            number += 1
        pictures.on_progress(number)
    return canvas_HWC[_PADDING:-_PADDING, _PADDING:-_PADDING] if pictures.count == 1 else canvas_HWC


def write_png_folder(pictures: Pictures, folder: Path) -> None:
    """A PNG a picture, and a record of what they were made with. Pictures that are there are not made again.

    Raises:
        ValueError: the folder holds pictures of another request, or of none that is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, folder / ".lock"):
        _claim(folder, pictures.request)
        remove_unfinished(folder)
        _write_missing(pictures, folder)


def write_npy(pictures: Pictures, path: Path) -> None:
    """A `.npy`, [N, H, W, C]. Raises ValueError as `array_record` does."""
    _write_array(pictures, path, zipped=False)


def write_npz(pictures: Pictures, path: Path) -> None:
    """A `.npz`, not compressed, with one array, [N, H, W, C]. It takes twice its size while it is finished.

    Raises:
        ValueError: as `array_record` does.
    """
    _write_array(pictures, path, zipped=True)


def array_record(path: Path) -> Path:
    """Where it is said what an array of other numbers than bytes was made with: beside it, called as it is.

    Raises:
        ValueError: something else has that name.
    """
    record = path.with_suffix(".json")
    try:
        ours = {"step", "weights", "value_range"} <= dict(read_json(record)).keys()
    except FileNotFoundError:
        return record
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise ValueError(
            f"{record} is to say what {path.name} was made with, but is something else: choose another --out"
        )
    return record


def write_tar(pictures: Pictures, path: Path) -> None:
    """A `.tar` of a PNG a picture, as WebDataset and `train --data` read it."""
    with unfinished(path, pictures.request, pictures.count, pictures.batch) as growing:
        done = growing.done
        pictures.on_progress(done)
        archive = tarfile.TarFile(fileobj=growing.file, mode="w", format=tarfile.USTAR_FORMAT)
        for encoded in in_order(pictures.batches(done), lambda _, picture_HWC: png_bytes(picture_HWC), done):
            for number, data in enumerate(encoded, done):
                member = tarfile.TarInfo(f"{pictures.name(number)}.png")
                member.size = len(data)  # and the time 0, so that the same pictures are the same bytes
                archive.addfile(member, io.BytesIO(data))
            done += len(encoded)
            growing.mark(done)
            pictures.on_progress(done)
        archive.close()
        growing.finish()


WRITERS: dict[Format, Callable[[Pictures, Path], None]] = {
    "grid": write_grid,
    "png": write_png_folder,
    "npy": write_npy,
    "npz": write_npz,
    "tar": write_tar,
}


def _write_missing(pictures: Pictures, folder: Path) -> None:
    def is_missing(number: int) -> bool:
        return not _is_whole_png(folder / f"{pictures.name(number)}.png")

    def write(number: int, picture_HWC: NDArray[np.uint8]) -> None:
        if is_missing(number):
            with replacing(folder / f"{pictures.name(number)}.png") as file:
                file.write(png_bytes(picture_HWC))

    first = next(filter(is_missing, range(pictures.count)), pictures.count)
    done = first if first == pictures.count else first // pictures.batch * pictures.batch
    pictures.on_progress(done)
    if done < pictures.count:
        for written in in_order(pictures.batches(done), write, done):
            done += len(written)
            pictures.on_progress(done)


def _write_array(pictures: Pictures, path: Path, *, zipped: bool) -> None:
    record = array_record(path) if pictures.dtype != np.uint8 else None
    with unfinished(path, pictures.request, pictures.count, pictures.batch) as growing:
        done = growing.done
        pictures.on_progress(done)
        if record is not None:
            write_replacing(record, _as_json(pictures.request))
        if done == 0:
            shape = pictures.count, *pictures.size, pictures.channels
            header = {"descr": pictures.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(growing.file, header)
        for pictures_NHWC in pictures.batches(done):
            growing.file.write(pictures_NHWC.data)
            done += len(pictures_NHWC)
            growing.mark(done)
            pictures.on_progress(done)
        if not zipped:
            growing.finish()
            return
        growing.flush()
        growing.file.seek(0)
        entry = zipfile.ZipInfo(ARRAY_NAME)  # of 1980, so that the same pictures are the same bytes
        with (
            replacing(path) as file,
            zipfile.ZipFile(file, "w") as archive,
            archive.open(entry, "w", force_zip64=True) as member,
        ):
            shutil.copyfileobj(growing.file, member)
        growing.discard()


def _as_image(picture_HWC: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(picture_HWC[..., 0] if picture_HWC.shape[-1] == 1 else picture_HWC)


def _as_json(request: dict[str, Any]) -> str:
    return json.dumps(request, indent=2) + "\n"


def _claim(folder: Path, request: dict[str, Any]) -> None:
    """Leave the request in a folder. Raises ValueError where it is not its own."""
    record = folder / RECORD_NAME
    there = sum(1 for _ in folder.glob("*.png"))
    try:
        found = read_json(record)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        raise ValueError(f"{record} can't be read: {error}; remove it, or choose another --out") from error
    if there and not isinstance(found, dict):
        raise ValueError(f"{folder} holds {there:,} PNGs of which nothing is known: choose another --out")
    if there:
        refuse_another_request(folder, found, request, there)
    write_replacing(record, _as_json(request))


def _is_whole_png(path: Path) -> bool:
    """Whether it is there, with a PNG's end: after a loss of power a file may be empty, or end in zeros."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), io.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False
