"""Where pictures come from: one file per source, all behind the protocol in `source.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from fastdcgan.data.dali import DaliFolder, dali_available
from fastdcgan.data.folder import scan_folder
from fastdcgan.data.idx import fashion_mnist, holds_idx
from fastdcgan.data.pillow import PillowFolder
from fastdcgan.data.source import ImageSource

__all__ = ["open_source"]


def open_source(
    spec: str,
    *,
    resolution: int,
    channels: int,
    device: str,
    threads: int,
    decoder: Literal["auto", "dali", "pillow"] = "auto",
    on_progress: Callable[[str, int, int], None] | None = None,
) -> ImageSource:
    """Open what the user named.

    Args:
        spec: "faces" (drawn here, no download), "fashion-mnist", or a folder: of pictures, or of MNIST's idx files.
        resolution: side of the pictures.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, which Pillow decodes).
        device: where pictures are wanted, as torch names it. DALI decodes on a CUDA device, else on the CPU.
        threads: for decoding.
        decoder: for folders of pictures; "auto" is DALI where it is installed.
        on_progress: called with ("drawing faces" or "checking images", done, total).

    Raises:
        ValueError: it can't be opened; the message is one line for the user.
    """
    if spec == "fashion-mnist":
        return fashion_mnist(None, resolution=resolution, channels=channels)
    folder = _draw_faces(on_progress) if spec == "faces" else Path(spec).expanduser()
    if holds_idx(folder):
        return fashion_mnist(folder, resolution=resolution, channels=channels)

    if decoder == "dali" and not dali_available():
        raise ValueError("DALI is not installed here; use --decoder pillow, or auto")
    if decoder == "dali" and channels == 4:
        raise ValueError("DALI decodes 1 or 3 channels; use --decoder pillow, or auto, for 4")
    index = scan_folder(folder, on_progress)
    if decoder == "pillow" or channels == 4 or not dali_available():
        source = PillowFolder(index, resolution=resolution, channels=channels, threads=threads)
        if decoder == "auto":
            source.description += " (it has 4 channels)" if channels == 4 else " (DALI is not installed)"
        return source
    gpu = None
    if torch.device(device).type == "cuda":
        number = torch.device(device).index
        gpu = torch.cuda.current_device() if number is None else number
    return DaliFolder(index, resolution=resolution, channels=channels, device=gpu, threads=threads)


def _draw_faces(on_progress: Callable[[str, int, int], None] | None) -> Path:
    from fastdcgan.data.faces import FACES, faces_folder

    return faces_folder(on_progress=on_progress and (lambda done: on_progress("drawing faces", done, FACES)))
