"""The protocol of sources of encoded picture files, which `dali.py` and `pillow.py` decode."""

from collections.abc import Sequence
from typing import Protocol

from fastdcgan.data.decoding.picture import PictureInfo
from fastdcgan.data.labels import Labels
from fastdcgan.data.source import Skipped


class EncodedPictures(Protocol):
    """`len(pictures)` picture files, each checked by decoding it once, numbered from 0 in a fixed order."""

    @property
    def origin(self) -> str:
        """See `ImageSource.origin`."""
        ...

    @property
    def skipped(self) -> Sequence[Skipped]:
        """See `ImageSource.skipped`."""
        ...

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Another one where a picture was added, removed or modified."""
        ...

    def __len__(self) -> int:
        """How many usable pictures there are."""
        ...

    def info(self, number: int) -> PictureInfo:
        """Size and format of a picture, as the check found them."""
        ...

    def name(self, number: int) -> str:
        """What a picture's file is called, for the user."""
        ...

    def read_bytes(self, number: int) -> bytes:
        """The bytes of a picture's file.

        Raises:
            ValueError: it can't be read, or was changed since it was checked; one line that names it.
        """
        ...
