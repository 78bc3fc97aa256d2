"""Where pictures come from: one file per source, all behind the protocol in `source.py`."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from fastdcgan.data.archives.shard_names import is_shards
from fastdcgan.data.archives.shards import open_shards
from fastdcgan.data.array import ArraySource, ResidentSource
from fastdcgan.data.datasets.celeba import scan_celeba
from fastdcgan.data.datasets.cifar10 import holds_cifar10, open_cifar10
from fastdcgan.data.datasets.idx import fashion_mnist, holds_idx
from fastdcgan.data.decoding.dali import DaliSource, dali_available
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.pillow import PillowSource
from fastdcgan.data.folder import FolderIndex, OnProgress, reason_of, scan_folder
from fastdcgan.data.numpy_file import is_numpy_file, open_numpy_file
from fastdcgan.data.pack import SHARE_OF_DISK, NoRoomError, packed
from fastdcgan.data.source import ImageSource
from fastdcgan.storage.printable import printable

__all__ = ["open_source"]


@dataclass(frozen=True, kw_only=True)
class _Request:
    """See `open_source`."""

    resolution: int
    channels: int
    device: torch.device
    threads: int
    decoder: Literal["auto", "dali", "pillow"]
    on_progress: OnProgress | None


def open_source(
    spec: str,
    *,
    resolution: int,
    channels: int,
    device: str,
    threads: int,
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    cache: Literal["off", "auto", "on"] = "off",
    device_memory: float | None = None,
    on_progress: OnProgress | None = None,
) -> ImageSource:
    """Open what the user named.

    Args:
        spec: "faces" (drawn here, no download), "cifar10", "celeba" or "fashion-mnist"; a folder: of pictures, of
            MNIST's idx files, or of CIFAR-10's; a NumPy file of pictures; or WebDataset tar shards (see `shards.py`).
        resolution: side of the pictures.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, which Pillow decodes).
        device: where pictures are wanted, as torch names it. DALI decodes on a CUDA device, else on the CPU.
        threads: for decoding.
        decoder: for picture files; "auto" is DALI where it is installed.
        cache: "on" decodes everything once into a pack (see `pack.py`) and reads that ever after; "auto" does so where
            there is room; "off" decodes again whenever a picture is read.
        device_memory: bytes of a GPU's memory that pictures may take; None for half of what is free. Pictures that
            stay in memory anyway (packs, arrays) are kept there if they fit.
        on_progress: called with ("drawing faces", "unpacking celeba", "listing shards", "checking images" or "packing
            images", done, total).

    Raises:
        ValueError: it can't be opened; the message is one line for the user.
    """
    request = _Request(
        resolution=resolution,
        channels=channels,
        device=torch.device(device),
        threads=threads,
        decoder=decoder,
        on_progress=on_progress,
    )
    source = _open(spec, request, to_pack=cache != "off")
    if cache != "off" and not isinstance(source, ArraySource):
        try:
            source = packed(
                source,
                resolution=resolution,
                channels=channels,
                share_of_disk=SHARE_OF_DISK if cache == "auto" else 1.0,
                on_progress=on_progress,
            )
        except NoRoomError as error:
            if cache == "on":
                raise
            source = _open(spec, request, to_pack=False)
            source.description += f" (not packed: {error})"
    return _near(source, request.device, device_memory) if isinstance(source, ArraySource) else source


def _open(spec: str, request: _Request, *, to_pack: bool) -> ImageSource:
    """What the user named, decoded whenever it is read. Packs are made on the CPU, so that all machines' are alike."""
    size = {"resolution": request.resolution, "channels": request.channels, "threads": request.threads}
    if spec in _ARRAYS:
        return _ARRAYS[spec](None, **size)
    if spec in _FOLDERS:
        return _decoded(_FOLDERS[spec](request.on_progress), request, to_pack=to_pack)
    path = _local(spec)
    if is_shards(spec):
        return _decoded(open_shards(spec, request.on_progress), request, to_pack=to_pack)
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()
    except OSError as error:
        raise ValueError(f"{printable(spec)}: {reason_of(error)}") from error
    if is_numpy_file(path):
        return open_numpy_file(path, **size)
    if holds_idx(path):
        return fashion_mnist(path, **size)
    if holds_cifar10(path):
        return open_cifar10(path, **size)
    if path.name == spec and not path.exists():
        named = ", ".join((*_FOLDERS, *_ARRAYS))
        raise ValueError(f"no such folder: {printable(spec)}; named sets are {named}")
    return _decoded(scan_folder(path, request.on_progress), request, to_pack=to_pack)


def _local(spec: str) -> Path:
    """What the user's words would be as a path. Raises ValueError where they can't be one."""
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


def _decoded(encoded: EncodedPictures, request: _Request, *, to_pack: bool) -> ImageSource:
    """By the decoder that was asked for."""
    size = {"resolution": request.resolution, "channels": request.channels, "threads": request.threads}
    if request.decoder == "dali" and not dali_available():
        raise ValueError("DALI is not installed here; use --decoder pillow, or auto")
    if request.decoder == "dali" and request.channels == 4:
        raise ValueError("DALI decodes 1 or 3 channels; use --decoder pillow, or auto, for 4")
    if request.decoder == "pillow" or request.channels == 4 or not dali_available():
        source = PillowSource(encoded, **size)
        if request.decoder == "auto":
            source.description += " (it has 4 channels)" if request.channels == 4 else " (DALI is not installed)"
        return source
    gpu = None
    if request.device.type == "cuda" and not to_pack:
        gpu = torch.cuda.current_device() if request.device.index is None else request.device.index
    return DaliSource(encoded, device=gpu, **size)


def _near(source: ArraySource, device: torch.device, device_memory: float | None) -> ImageSource:
    """The pictures in a GPU's memory if they fit, else gathered ahead for it, or from a disk that is not all cached."""
    size = source.pictures_NHWC.nbytes
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] / 2 if device_memory is None else device_memory
        if size <= budget:
            return ResidentSource(source, device)
    source.ahead = device.type != "cpu" or size > psutil.virtual_memory().total / 2
    return source


def _drawn_faces(on_progress: OnProgress | None) -> FolderIndex:
    from fastdcgan.data.faces.dataset import FACES, faces_folder

    folder = faces_folder(on_progress=on_progress and (lambda done: on_progress("drawing faces", done, FACES)))
    return scan_folder(folder, on_progress)


_FOLDERS = {"faces": _drawn_faces, "celeba": scan_celeba}
_ARRAYS = {"cifar10": open_cifar10, "fashion-mnist": fashion_mnist}
