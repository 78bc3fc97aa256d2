"""Where picture files lie and how to get at their bytes. Who decodes them is another matter: `dali.py`, `pillow.py`."""

from collections.abc import Sequence
from typing import Protocol

from fastdcgan.data.decoding.picture import Examined
from fastdcgan.data.source import Skipped


class EncodedPictures(Protocol):
    """`len(pictures)` picture files, each checked by decoding it once, numbered from 0 in an order that stays."""

    @property
    def origin(self) -> str:
        """Where they are, for people and as a cache's key: the path of the folder."""
        ...

    @property
    def skipped(self) -> Sequence[Skipped]:
        """Files that can't be used, the foreign ones last."""
        ...

    @property
    def fingerprint(self) -> str:
        """Another one wherever a picture was added, removed or modified."""
        ...

    def __len__(self) -> int:
        """How many usable pictures there are."""
        ...

    def examined(self, number: int) -> Examined:
        """What the check found out about a picture."""
        ...

    def read_bytes(self, number: int) -> bytes:
        """A picture's file.

        Raises:
            ValueError: it can't be read, or is no longer the file that was checked; in one line, naming it.
        """
        ...
