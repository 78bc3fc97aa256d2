"""Opens a source of pictures by name or path; each source is a module behind the protocol in `source.py`."""

import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import psutil
import torch

from fastdcgan.config import DataConfig, parse_value_range
from fastdcgan.data.archives.shard_names import names_shards
from fastdcgan.data.archives.shards import open_shards
from fastdcgan.data.array import ArraySource, DeviceSource, ResizedSource
from fastdcgan.data.arrays.numpy_folder import NumpyFolderSource, holds_numpy_files
from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.datasets.celeba import scan_celeba
from fastdcgan.data.datasets.cifar10 import holds_cifar10, open_cifar10
from fastdcgan.data.datasets.idx import holds_idx, open_fashion_mnist
from fastdcgan.data.decoding.dali import INSTALL_DALI, DaliSource, dali_available
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.fitting import Fit, Frame
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.describe import crop_remark
from fastdcgan.data.duplicates import without_copies
from fastdcgan.data.folder import FolderIndex, OnProgress, os_error_reason, scan_folder
from fastdcgan.data.numpy_file import is_numpy_file, open_numpy_file
from fastdcgan.data.pack import MAX_DISK_SHARE, PackWriteError, open_packed
from fastdcgan.data.source import ImageSource
from fastdcgan.data.tables.hdf5 import is_hdf5, open_hdf5
from fastdcgan.data.tables.hub import PREFIX as HUB_PREFIX
from fastdcgan.data.tables.hub import open_hub
from fastdcgan.data.tables.lmdb_folder import is_lmdb, open_lmdb
from fastdcgan.data.tables.parquet import open_parquet, parquet_files
from fastdcgan.device import free_memory, has_own_memory
from fastdcgan.gan.architecture import Architecture, Resolution
from fastdcgan.limits.cores import usable_cores
from fastdcgan.storage.printable import printable


class _Form(TypedDict):
    """What each kind of source is opened with."""

    frame: Frame
    channels: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class _Options:
    """The arguments of `open_source` that its helpers need."""

    form: _Form
    device: torch.device
    decoder: Literal["auto", "dali", "pillow"]
    on_progress: OnProgress | None
    value_range: ValueRange | None
    drop_duplicates: bool


def open_pictures(
    asked: DataConfig,
    arch: Architecture,
    *,
    device: str = "cpu",
    begun_range: tuple[float, float] | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSource:
    """Open a source of pictures as a configuration asks for it.

    Args:
        asked: what to open, and how.
        arch: the networks that the pictures are for.
        device: as for `open_source`.
        begun_range: what a run that is there has taken for the values' range; used where none is asked for.
        on_progress: as for `open_source`.

    Raises:
        ValueError: as `open_source`.
    """
    assert asked.data is not None, "the configuration is not resolved"
    return open_source(
        asked.data,
        resolution=arch.resolution,
        channels=arch.channels,
        fit=asked.fit,
        device=device,
        threads=asked.data_threads or min(8, usable_cores()),
        decoder=asked.decoder,
        cache=asked.data_cache,
        device_memory=asked.data_memory and asked.data_memory * 2**30,
        on_progress=on_progress,
        value_range=parse_value_range(asked.value_range) or begun_range,
        drop_duplicates=asked.drop_duplicates,
    )


def open_source(
    spec: str,
    *,
    resolution: Resolution,
    channels: int,
    device: str,
    threads: int,
    fit: Fit = "crop",
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    cache: Literal["off", "auto", "on"] = "off",
    device_memory: float | None = None,
    on_progress: OnProgress | None = None,
    value_range: tuple[float, float] | None = None,
    drop_duplicates: bool = False,
) -> ImageSource:
    """Open a source of pictures.

    Args:
        spec: "faces" (drawn by the package, no download), "cifar10", "celeba" or "fashion-mnist"; a folder of
            pictures, of MNIST's idx files or of CIFAR-10's; a NumPy file of pictures, or a folder of
            them; or tar and zip files (see
            `shards.py`).
        resolution: of the pictures given out: 64, or "128x64" (height x width).
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, which Pillow decodes).
        device: where training runs, as torch names it. DALI decodes on a CUDA device, else on the CPU.
        threads: for decoding.
        fit: how pictures of another shape are brought to this one (see `fitting.py`).
        decoder: for picture files; "auto" is DALI where it is installed.
        cache: "on" decodes everything once into a pack (see `pack.py`) and reads that from then on; "auto" does so
            where there is room; "off" decodes whenever a picture is read.
        device_memory: bytes of a GPU's memory that pictures may take; None for half of what is free. Packs and arrays
            are kept there if they fit.
        on_progress: called with ("drawing faces", "unpacking celeba", "listing shards", "checking images",
            "looking for copies" or "packing images", done, total).
        value_range: of NumPy files: the values that become 0 and 255. None: bytes stay as they are, other numbers have
            their own range.
        drop_duplicates: leave out pictures that are copies of others, byte for byte.

    Raises:
        ValueError: it can't be opened; the message is one line for the user.
    """
    frame = Frame.of(resolution, fit)
    options = _Options(
        form={"frame": frame, "channels": channels, "threads": threads},
        device=torch.device(device),
        decoder=decoder,
        on_progress=on_progress,
        value_range=value_range and ValueRange(*value_range),
        drop_duplicates=drop_duplicates,
    )
    source = _open_as_asked(spec, options, to_pack=cache != "off")
    if cache != "off" and not isinstance(source, ArraySource):
        try:
            source = open_packed(
                source,
                frame=frame,
                channels=channels,
                share_of_disk=MAX_DISK_SHARE if cache == "auto" else 1.0,
                on_progress=on_progress,
            )
        except PackWriteError as error:
            if cache == "on":
                raise
            source = _open_as_asked(spec, options, to_pack=False)
            source.description += f" (not packed: {error})"
    return _place(source, options.device, device_memory) if isinstance(source, ArraySource) else source


def _open_as_asked(spec: str, options: _Options, *, to_pack: bool) -> ImageSource:
    """`_open`, described with what a crop cuts off; without copies where these are to be left out."""
    source = _open(spec, options, to_pack=to_pack)
    source.description += crop_remark(source, options.form["frame"])
    return without_copies(source, options.on_progress) if options.drop_duplicates else source


def _open(spec: str, options: _Options, *, to_pack: bool) -> ImageSource:
    """Open `spec` without a pack. For a pack DALI decodes on the CPU, so that packs don't depend on the machine."""
    if spec in _ARRAY_DATASETS:
        return _ARRAY_DATASETS[spec](None, **options.form)
    if spec in _FILE_DATASETS:
        return _with_decoder(_FILE_DATASETS[spec](options.on_progress), options, to_pack=to_pack)
    if spec.startswith(HUB_PREFIX):
        return _with_decoder(open_hub(spec, options.on_progress), options, to_pack=to_pack)
    path = _path_of_spec(spec)
    if names_shards(spec) and not (holds_idx(path) or holds_cifar10(path)):
        shards = open_shards(spec, options.on_progress)
        source = _with_decoder(shards, options, to_pack=to_pack)
        source.description += shards.remark
        return source
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except OSError as error:
        raise ValueError(f"{printable(spec)}: {os_error_reason(error)}") from error
    if is_numpy_file(path):
        return open_numpy_file(path, **options.form, value_range=options.value_range)
    if holds_idx(path):
        return open_fashion_mnist(path, **options.form)
    if holds_cifar10(path):
        return open_cifar10(path, **options.form)
    if path.name == spec and not path.exists():
        named = ", ".join((*_FILE_DATASETS, *_ARRAY_DATASETS))
        raise ValueError(f"no such folder: {printable(spec)}; named sets are {named}")
    table = _open_table(path, options)
    if table is not None:
        return table if isinstance(table, ResizedSource) else _with_decoder(table, options, to_pack=to_pack)
    if holds_numpy_files(path):
        return NumpyFolderSource(path, **options.form, value_range=options.value_range)
    return _with_decoder(scan_folder(path, options.on_progress), options, to_pack=to_pack)


def _open_table(path: Path, options: _Options) -> ResizedSource | EncodedPictures | None:
    """The pictures of another library's table; None for what is none."""
    if is_lmdb(path):
        return open_lmdb(path, options.on_progress)
    if is_hdf5(path):
        return open_hdf5(path, **options.form, value_range=options.value_range, on_progress=options.on_progress)
    files = parquet_files(path)
    return open_parquet(path, files, options.on_progress) if files else None


def _path_of_spec(spec: str) -> Path:
    """`spec` as a path, with ~ expanded. Raises ValueError where it can't be one."""
    if not spec:
        raise ValueError("no pictures are named: the name is empty")
    if "://" in spec:
        raise ValueError(f"{printable(spec)}: an address, not a path; pictures are read from disks, so download them")
    if "\0" in spec:
        raise ValueError(f"no such folder: {printable(spec)}")
    try:
        return Path(spec).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{printable(spec)}: there is no such user") from error


def _with_decoder(encoded: EncodedPictures, options: _Options, *, to_pack: bool) -> ImageSource:
    """A source that decodes by DALI or Pillow, as asked."""
    channels = options.form["channels"]
    if options.decoder == "dali" and channels == 4:
        raise ValueError("DALI decodes 1 or 3 channels; use --decoder pillow, or auto, for 4")
    if options.decoder == "dali" and not dali_available():
        raise ValueError(f"DALI is not installed here: {INSTALL_DALI}; or use --decoder pillow")
    if options.decoder == "pillow" or channels == 4 or not dali_available():
        source = PillowSource(encoded, **options.form)
        if options.decoder == "auto":
            source.description += " (it has 4 channels)" if channels == 4 else f" ({_without_dali()})"
        return source
    gpu = None
    if options.device.type == "cuda" and not to_pack:
        gpu = torch.cuda.current_device() if options.device.index is None else options.device.index
    return DaliSource(encoded, device=gpu, **options.form)


def _without_dali() -> str:
    """Why Pillow decodes, and what would be faster."""
    return f"DALI is faster: {INSTALL_DALI}" if sys.platform == "linux" else "DALI is for Linux"


def _place(source: ArraySource, device: torch.device, device_memory: float | None) -> ImageSource:
    """Copy an array to the GPU's memory if it fits; else prefetch for a GPU, or from a file that isn't all cached."""
    size = source.pictures_NHWC.nbytes
    if has_own_memory(device):
        budget = free_memory(device) / 2 if device_memory is None else device_memory
        if size <= budget:
            return DeviceSource(source, device)
    source.prefetch = device.type != "cpu" or size > psutil.virtual_memory().total / 2
    return source


def _scan_faces(on_progress: OnProgress | None) -> FolderIndex:
    from fastdcgan.data.faces.dataset import FACES, faces_folder

    folder = faces_folder(on_progress=on_progress and (lambda done: on_progress("drawing faces", done, FACES)))
    return scan_folder(folder, on_progress)


_FILE_DATASETS = {"faces": _scan_faces, "celeba": scan_celeba}
_ARRAY_DATASETS = {"cifar10": open_cifar10, "fashion-mnist": open_fashion_mnist}
