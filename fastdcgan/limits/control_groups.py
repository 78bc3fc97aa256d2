"""The control groups of this process: how containers and job schedulers limit its cores and memory."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups of version 2 or 1, and of those above them, if there are any.

    Args:
        root: of the file system.
        controller: of groups of version 1: "cpu" or "memory".
    """
    with suppress(OSError, ValueError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mount = root / "sys/fs/cgroup" / controllers
            if controllers and controller not in controllers.split(","):
                continue
            # Within a container the path may be the host's, while only the part below the container's root is there.
            for folder in (mount / path.lstrip("/"), *(mount / path.lstrip("/")).parents):
                yield folder
                if folder == mount:
                    break
