"""Folders for code that is kept between runs: only what nobody else can have written is loaded."""

import os
import stat
import tempfile
from pathlib import Path

from fastdcgan.storage.cache import cache_folder

_INDUCTORS = "TORCHINDUCTOR_CACHE_DIR"


def have_private(folder: Path) -> bool:
    """Whether there is, now, such a folder, in folders in which nobody else can put another in its place."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        parents = folder.parent.resolve()
        return ours_alone(folder) and all(_is_safe(path.stat(), shared=True) for path in (parents, *parents.parents))
    except OSError:
        return False


def ours_alone(path: Path) -> bool:
    """Whether a file or folder, no link, is there and can be written by this user (and the system's) alone."""
    try:
        info = path.lstat()
    except OSError:
        return False
    return not stat.S_ISLNK(info.st_mode) and _is_safe(info)


def keep_compiled_private() -> None:
    """Have Inductor keep what it compiles in our cache folder, unless the user has said where.

    Its own choice is /tmp/torchinductor_<user>, whoever made that folder, and it runs and unpickles what is in there.
    """
    if _INDUCTORS in os.environ:
        return
    folder = cache_folder() / "inductor"
    os.environ[_INDUCTORS] = str(folder) if have_private(folder) else tempfile.mkdtemp(prefix="fastdcgan-inductor-")


def _is_safe(info: os.stat_result, *, shared: bool = False) -> bool:
    """Whether nobody else can write there; `shared`: or can, but not rename what is ours, as in /tmp."""
    if not hasattr(os, "geteuid"):  # Windows: the user's folders are the user's
        return True
    others_write = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (shared and info.st_mode & stat.S_ISVTX)
    return info.st_uid in (0, os.geteuid()) and not others_write
