"""Folders for compiled code that is kept between runs. Code is loaded only from where no other user can write."""

import os
import stat
import tempfile
from pathlib import Path

from fastdcgan.storage.cache import cache_folder

_INDUCTOR_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def ensure_private_folder(folder: Path) -> bool:
    """Create a folder of mode 0700 unless it exists; False where others can write to it, or rename one above it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        parents = folder.parent.resolve()
        return is_private(folder) and all(
            _others_cannot_write(path.stat(), sticky=True) for path in (parents, *parents.parents)
        )
    except OSError:
        return False


def is_private(path: Path) -> bool:
    """Whether a file or folder exists, is no link, and only this user and root can write to it."""
    try:
        info = path.lstat()
    except OSError:
        return False
    return not stat.S_ISLNK(info.st_mode) and _others_cannot_write(info)


def use_private_inductor_cache() -> None:
    """Point Inductor's cache at a private folder, unless the user has set TORCHINDUCTOR_CACHE_DIR.

    Its default is /tmp/torchinductor_<user>, whoever made that folder, and it runs and unpickles what is in there.
    """
    if _INDUCTOR_VARIABLE in os.environ:
        return
    folder = cache_folder() / "inductor"
    private = ensure_private_folder(folder)
    os.environ[_INDUCTOR_VARIABLE] = str(folder) if private else tempfile.mkdtemp(prefix="fastdcgan-inductor-")


def _others_cannot_write(info: os.stat_result, *, sticky: bool = False) -> bool:
    """Whether this user or root owns it and nobody else can write; `sticky`: a sticky folder, as /tmp, will do."""
    if not hasattr(os, "geteuid"):  # Windows: the user's folders are the user's
        return True
    others_write = info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (sticky and info.st_mode & stat.S_ISVTX)
    return info.st_uid in (0, os.geteuid()) and not others_write
