"""What `fastdcgan data` and `fastdcgan pack` do, and show."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from json import dumps
from pathlib import Path

from fastdcgan.config import MAX_DATA_THREADS, DataConfig
from fastdcgan.data.array import ArraySource
from fastdcgan.data.decoding.fitting import Frame
from fastdcgan.data.describe import contact_sheet, describe, facts_as_json, write_skipped
from fastdcgan.data.duplicates import SubsetSource, find_copies
from fastdcgan.data.folder import NoUsablePictureError
from fastdcgan.data.open import open_pictures
from fastdcgan.data.pack import Pack, ensure_packed
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import normalise
from fastdcgan.gan.architecture import Architecture, Resolution, architecture
from fastdcgan.runs.sampling import save_grid
from fastdcgan.storage.files import write_replacing
from fastdcgan.storage.printable import printable
from fastdcgan.telemetry.terminal.data_tables import facts_rows, packing_rows, show, skipped_by_reason_rows
from fastdcgan.telemetry.terminal.display import Display


@dataclass(frozen=True, kw_only=True)
class Request:
    """How pictures are to be opened, as the user says it."""

    resolution: Resolution
    """Of the pictures that training would have."""

    channels: int | None
    """Of these. Default: 3; 1 for 28x28."""

    data: DataConfig
    """Which pictures, and how they are opened. They are not packed, whatever this says."""

    def geometry(self) -> Architecture:
        """The network for such pictures. Raises ValueError if there is none."""
        return architecture(resolution=self.resolution, channels=self.channels)

    def frame(self) -> Frame:
        """What pictures are brought to."""
        return Frame(self.geometry().resolution, self.data.fit)

    def open(self, display: Display) -> ImageSource:
        """Open the pictures. Raises ValueError as `open_source`."""
        threads = self.data.data_threads
        if threads is not None and not 1 <= threads <= MAX_DATA_THREADS:
            raise ValueError(f"--threads {threads}: must be at least 1 and at most {MAX_DATA_THREADS:,}")
        asked = replace(self.data, data_cache="off")
        return open_pictures(asked, self.geometry(), on_progress=display.advance)


def describe_data(request: Request, *, out: Path, skipped: Path | None, json: Path | None) -> None:
    """Show what there is to know of pictures, and write a contact sheet.

    Args:
        request: which, and how to open them.
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
            opened = request.open(display)
            copies = None if isinstance(opened, SubsetSource) else find_copies(opened, display.advance)
    except NoUsablePictureError as error:
        show(skipped_by_reason_rows(error.skipped))
        if skipped is not None:
            write_skipped(error.skipped, skipped)
        raise
    facts = describe(opened, frame=frame, channels=request.geometry().channels, copies=copies)
    show(facts_rows(facts, request.data))
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


def pack_data(request: Request) -> None:
    """Decode pictures into a pack, or check the one that is there, and show how it is used.

    Args:
        request: which, and how to open them.

    Raises:
        ValueError: for what the user can fix.
    """
    geometry = request.geometry()
    with Display() as display:
        original = request.open(display)
    show([("source", original.description)])
    if isinstance(original, ArraySource):
        show([("pack", "not needed: the pictures are an array of this size already")])
        return
    wanted = Pack(original=original, frame=request.frame(), channels=geometry.channels)
    with Display() as display:
        packing = ensure_packed(wanted, display.advance)
    show(packing_rows(wanted, packing, request.data))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise an OSError as a ValueError that names the file which can't be written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"can't write to {printable(path)}: {error.strerror or error}") from error
