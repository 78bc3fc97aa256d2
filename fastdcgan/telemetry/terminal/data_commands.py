"""What `fastdcgan data` and `fastdcgan pack` do, and show."""

from pathlib import Path
from typing import Literal

from fastdcgan.config import MAX_DATA_THREADS, parse_value_range
from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.fitting import Fit, Frame
from fastdcgan.data.describe import contact_sheet, describe, write_skipped
from fastdcgan.data.folder import NoUsablePictureError
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import Pack, ensure_packed
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import normalise
from fastdcgan.gan.architecture import Architecture, Resolution, architecture
from fastdcgan.limits.cores import usable_cores
from fastdcgan.runs.sampling import save_grid
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.terminal.data_tables import facts_rows, packing_rows, show, skipped_by_reason_rows
from fastdcgan.telemetry.terminal.display import Display

Decoder = Literal["auto", "dali", "pillow"]


def describe_data(
    source: str,
    *,
    resolution: Resolution,
    channels: int | None,
    fit: Fit,
    out: Path,
    skipped: Path | None,
    decoder: Decoder,
    value_range: str = "auto",
) -> None:
    """Show what there is to know of pictures, and write a contact sheet.

    Args:
        source: as for `open_source`.
        resolution: of the pictures that training would have.
        channels: of these. Default: 3; 1 for 28x28.
        fit: how they are brought to it.
        out: the sheet, a PNG.
        skipped: where all files that can't be used are listed too.
        decoder: of picture files.
        value_range: as for training.

    Raises:
        ValueError: for what the user can fix.
    """
    geometry = architecture(resolution=resolution, channels=channels)
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: must end in .png")
    try:
        with Display() as display:
            opened = _open(source, geometry, fit, decoder, None, display, value_range)
    except NoUsablePictureError as error:
        show(skipped_by_reason_rows(error.skipped))
        if skipped is not None:
            write_skipped(error.skipped, skipped)
        raise
    facts = describe(opened, frame=Frame(geometry.resolution, fit), channels=geometry.channels)
    show(facts_rows(facts, source))
    if skipped is not None:
        write_skipped(facts.skipped, skipped)
        show([("", f"all listed in {printable(skipped)}")])
    pictures_NHWC = contact_sheet(opened)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        save_grid(normalise(pictures_NHWC), out)
    except OSError as error:
        raise ValueError(f"can't write to {printable(out)}: {error.strerror or error}") from error
    show([("sheet", f"{len(pictures_NHWC)} of them as training sees them: {printable(out)}")])


def pack_data(
    source: str,
    *,
    resolution: Resolution,
    channels: int | None,
    fit: Fit,
    decoder: Decoder,
    threads: int | None,
    value_range: str = "auto",
) -> None:
    """Decode pictures into a pack, or check the one that is there, and show how it is used.

    Args:
        source: as for `open_source`.
        resolution: of the pictures in the pack.
        channels: of these. Default: 3; 1 for 28x28.
        fit: how they are brought to it.
        decoder: of picture files.
        threads: that decode. Default: as many as there are cores, at most 8.
        value_range: as for training.

    Raises:
        ValueError: for what the user can fix.
    """
    geometry = architecture(resolution=resolution, channels=channels)
    if threads is not None and not 1 <= threads <= MAX_DATA_THREADS:
        raise ValueError(f"--threads {threads}: must be at least 1 and at most {MAX_DATA_THREADS:,}")
    with Display() as display:
        original = _open(source, geometry, fit, decoder, threads, display, value_range)
    show([("source", original.description)])
    if isinstance(original, ArraySource):
        show([("pack", "not needed: the pictures are an array of this size already")])
        return
    wanted = Pack(original=original, frame=Frame(geometry.resolution, fit), channels=geometry.channels)
    with Display() as display:
        packing = ensure_packed(wanted, display.advance)
    show(packing_rows(wanted, packing, source))


def _open(
    source: str,
    geometry: Architecture,
    fit: Fit,
    decoder: Decoder,
    threads: int | None,
    display: Display,
    value_range: str,
) -> ImageSource:
    return open_source(
        source,
        resolution=geometry.resolution,
        channels=geometry.channels,
        fit=fit,
        device="cpu",
        threads=threads or min(8, usable_cores()),
        decoder=decoder,
        on_progress=display.advance,
        value_range=parse_value_range(value_range),
    )
