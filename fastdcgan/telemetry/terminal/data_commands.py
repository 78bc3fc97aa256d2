"""What `fastdcgan data` and `fastdcgan pack` do, and show."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Literal

from fastdcgan.config import MAX_DATA_THREADS, parse_value_range
from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.fitting import Fit, Frame
from fastdcgan.data.describe import contact_sheet, describe, facts_as_json, write_skipped
from fastdcgan.data.duplicates import SubsetSource, find_copies
from fastdcgan.data.folder import NoUsablePictureError
from fastdcgan.data.open import open_source
from fastdcgan.data.pack import Pack, ensure_packed
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import normalise
from fastdcgan.gan.architecture import Architecture, Resolution, architecture
from fastdcgan.limits.cores import usable_cores
from fastdcgan.runs.sampling import save_grid
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.terminal.data_tables import facts_rows, packing_rows, show, skipped_by_reason_rows
from fastdcgan.telemetry.terminal.display import Display

Decoder = Literal["auto", "dali", "pillow"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """How pictures are to be opened, as the user says it."""

    resolution: Resolution
    """Of the pictures that training would have."""

    channels: int | None
    """Of these. Default: 3; 1 for 28x28."""

    fit: Fit
    """How they are brought to that."""

    decoder: Decoder
    """Of picture files."""

    value_range: str
    drop_duplicates: bool
    """As for training."""

    threads: int | None = None
    """That decode. Default: as many as there are cores, at most 8."""

    def geometry(self) -> Architecture:
        """The network for such pictures. Raises ValueError if there is none."""
        return architecture(resolution=self.resolution, channels=self.channels)

    def frame(self) -> Frame:
        """What pictures are brought to."""
        return Frame(self.geometry().resolution, self.fit)

    def open(self, source: str, display: Display) -> ImageSource:
        """Open pictures, not packed. Raises ValueError as `open_source`."""
        if self.threads is not None and not 1 <= self.threads <= MAX_DATA_THREADS:
            raise ValueError(f"--threads {self.threads}: must be at least 1 and at most {MAX_DATA_THREADS:,}")
        geometry = self.geometry()
        return open_source(
            source,
            resolution=geometry.resolution,
            channels=geometry.channels,
            fit=self.fit,
            device="cpu",
            threads=self.threads or min(8, usable_cores()),
            decoder=self.decoder,
            on_progress=display.advance,
            value_range=parse_value_range(self.value_range),
            drop_duplicates=self.drop_duplicates,
        )


def describe_data(source: str, request: Request, *, out: Path, skipped: Path | None, json: Path | None) -> None:
    """Show what there is to know of pictures, and write a contact sheet.

    Args:
        source: as for `open_source`.
        request: how to open it.
        out: the sheet, a PNG.
        skipped: where all files that are left out are listed too.
        json: where the facts are written too.

    Raises:
        ValueError: for what the user can fix.
    """
    frame = request.frame()
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out}: must end in .png")
    try:
        with Display() as display:
            opened = request.open(source, display)
            copies = None if isinstance(opened, SubsetSource) else find_copies(opened, display.advance)
    except NoUsablePictureError as error:
        show(skipped_by_reason_rows(error.skipped))
        if skipped is not None:
            write_skipped(error.skipped, skipped)
        raise
    facts = describe(opened, frame=frame, channels=request.geometry().channels, copies=copies)
    show(facts_rows(facts, source))
    if skipped is not None:
        write_skipped(facts.skipped, skipped)
        show([("", f"all listed in {printable(skipped)}")])
    pictures_NHWC = contact_sheet(opened)
    with _naming(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        save_grid(normalise(pictures_NHWC), out)
    show([("sheet", f"{len(pictures_NHWC)} of them as training sees them: {printable(out)}")])
    if json is not None:
        with _naming(json):
            write_replacing(json, dumps(facts_as_json(facts), indent=2) + "\n")


def pack_data(source: str, request: Request) -> None:
    """Decode pictures into a pack, or check the one that is there, and show how it is used.

    Args:
        source: as for `open_source`.
        request: how to open it.

    Raises:
        ValueError: for what the user can fix.
    """
    geometry = request.geometry()
    with Display() as display:
        original = request.open(source, display)
    show([("source", original.description)])
    if isinstance(original, ArraySource):
        show([("pack", "not needed: the pictures are an array of this size already")])
        return
    wanted = Pack(original=original, frame=request.frame(), channels=geometry.channels)
    with Display() as display:
        packing = ensure_packed(wanted, display.advance)
    show(packing_rows(wanted, packing, source))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an OSError as a ValueError that names the file which can't be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"can't write to {printable(path)}: {error.strerror or error}") from error
