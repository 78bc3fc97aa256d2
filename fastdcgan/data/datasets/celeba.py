"""CelebA: 202,599 aligned faces, unpacked as JPEGs into the cache folder."""

import contextlib
import io
import re
import shutil
import stat
import tempfile
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from fastdcgan.data.folder import FolderIndex, OnProgress, scan_folder
from fastdcgan.storage.cache import cache_folder
from fastdcgan.storage.locks import held
from fastdcgan.storage.printable import printable

PICTURES = 202_599

ARCHIVE = "img_align_celeba.zip"

MAX_PICTURE_BYTES = 2**20
"""Limit of a picture; the published ones have about 7,000 bytes."""

MAX_BYTES = 2**32
"""Limit of all pictures together; the published ones have 1.4 billion bytes."""

_NAME = re.compile(r"[0-9]{6}\.jpg")


def scan_celeba(on_progress: OnProgress | None = None) -> FolderIndex:
    """The pictures in celeba/img_align_celeba of the cache folder.

    If missing, they are unpacked from img_align_celeba.zip beside that folder, which is downloaded if missing too.

    Args:
        on_progress: called with ("unpacking celeba" or "checking images", done, total).

    Raises:
        ValueError: they can't be downloaded or unpacked, or some are missing; the message says what to put where.
    """
    folder = cache_folder() / "celeba"
    pictures = folder / PurePosixPath(ARCHIVE).stem
    if not pictures.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # One process unpacks; the next removes what a killed one has left.
            with held(pictures.with_suffix(".lock")):
                if not pictures.exists():
                    _download_and_unpack(folder / ARCHIVE, pictures, on_progress)
        except OSError as error:
            raise ValueError(
                f"CelebA can't be unpacked into {printable(folder)}: {error.strerror or error}; "
                "set FASTDCGAN_CACHE to a folder that can be written"
            ) from error
    index = scan_folder(pictures, on_progress)
    present = len(index) + len(index.skipped)
    if present < PICTURES:
        raise ValueError(
            f"only {present:,} of CelebA's {PICTURES:,} pictures are in {printable(pictures)}; "
            "remove that folder to have it made again, or name it with --data to use these alone"
        )
    return index


def _download_and_unpack(archive: Path, pictures: Path, on_progress: OnProgress | None) -> None:
    """Unpack the archive into `pictures`; download it first if missing, and remove it then. Raises OSError."""
    downloaded = not archive.is_file()
    if downloaded:
        _download(archive)
    unfinished = pictures.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        _unpack(archive, unfinished, on_progress)
        unfinished.rename(pictures)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if downloaded:
        archive.unlink()


def _unpack(path: Path, folder: Path, on_progress: OnProgress | None) -> None:
    """Write the archive's pictures, and nothing else in it, into a folder. Raises ValueError where it is damaged."""
    name = printable(path)
    damaged = f"{name}: damaged or cut off; remove it to have it downloaded again"
    try:
        with zipfile.ZipFile(path) as archive:
            members = _pictures_in(archive)
            if len(members) < PICTURES:
                raise ValueError(f"{name}: only {len(members):,} of CelebA's {PICTURES:,} pictures are in it")
            sizes = [member.file_size for member in members.values()]
            if max(sizes) > MAX_PICTURE_BYTES or sum(sizes) > MAX_BYTES:
                raise ValueError(f"{name}: unpacks to more than CelebA has")
            for done, (picture, member) in enumerate(members.items(), start=1):
                data = archive.read(member)
                if len(data) != member.file_size:
                    raise ValueError(damaged)
                (folder / picture).write_bytes(data)
                if on_progress is not None:
                    on_progress("unpacking celeba", done, len(members))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, UnicodeError) as error:
        raise ValueError(damaged) from error


def _pictures_in(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's pictures by file name, without the folders that it gives them."""
    members = {}
    for member in archive.infolist():
        name = PurePosixPath(member.filename).name
        kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive was made on Windows
        # With zipfile's other methods a small file can take gigabytes of memory.
        bounded = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if kind in (0, stat.S_IFREG) and bounded and _NAME.fullmatch(name):
            members[name] = member
    return members


def _download(target: Path) -> None:
    """Download the archive, in one step. Raises ValueError."""
    from torchvision.datasets import CelebA
    from torchvision.datasets.utils import download_file_from_google_drive

    number, md5 = next((number, md5) for number, md5, name in CelebA.file_list if name == ARCHIVE)
    failures: tuple[type[Exception], ...] = (OSError, RuntimeError, HTTPException, *_download_errors())
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as unfinished, contextlib.redirect_stdout(io.StringIO()):
            download_file_from_google_drive(number, unfinished, target.name, md5)
            (Path(unfinished) / target.name).replace(target)
    except failures as error:
        reason = " ".join(str(error).split()).removesuffix(".")[:160] or type(error).__name__
        raise ValueError(
            f"CelebA could not be downloaded ({printable(reason)}); put {target.name}, or the folder "
            f"{target.stem} with its pictures, into {printable(target.parent)}"
        ) from error


def _download_errors() -> tuple[type[Exception], ...]:
    """What gdown, which torchvision downloads with, raises where Google Drive refuses."""
    try:
        from gdown import exceptions
    except ImportError:
        return ()
    return (getattr(exceptions, "DownloadError", exceptions.FileURLRetrievalError),)
