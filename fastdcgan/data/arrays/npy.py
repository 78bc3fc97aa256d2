"""NumPy's files: headers read within bounds, pictures told by their axes."""

import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from typing import IO, NamedTuple

import numpy as np

CHANNELS = (1, 3, 4)

_MAX_HEADER_BYTES = 2**14
_MAX_LENGTH = 10**100  # Python refuses to print longer numbers
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PARSER_ERRORS = (
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    EOFError,
    OverflowError,
    RuntimeError,
    MemoryError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy's and zipfile's parsers raise on damaged files."""


class Header(NamedTuple):
    """The header of a `.npy`. `offset` is where its pixels begin, in bytes."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype[np.generic]
    offset: int

    @property
    def is_numeric(self) -> bool:
        """Whether it is of numbers that can be pictures: whole, floating-point or truth values."""
        return self.dtype.kind in "uifb"

    @property
    def bytes(self) -> int:
        """Of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> str:
        """The shape, for the user."""
        return "x".join(map(str, self.shape)) or "a single number"


def header_of(file: IO[bytes], name: str) -> Header:
    """The header of an open `.npy`. Raises ValueError beginning with `name`, or OSError."""
    with raising_value_error(f"{name}: damaged, or not a .npy file"):
        return read_header(file)


def read_header(file: IO[bytes]) -> Header:
    """The header of a `.npy`. Raises any of `PARSER_ERRORS`."""
    # Bounded: the length that a damaged header gives can be anything.
    start = BytesIO(file.read(_MAX_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    with warnings.catch_warnings(action="ignore"):  # NumPy's and Python's, of odd headers
        shape, fortran_order, dtype = _HEADERS[version](start)
    if any(abs(length) > _MAX_LENGTH for length in shape):
        raise OverflowError
    return Header(shape, fortran_order, dtype, start.tell())


def axes_of_pictures(header: Header, what: str) -> str:
    """The axes of an array of pictures, as "N, H, W, C". Raises ValueError where it isn't one."""
    shape = header.shape
    check_numbers(header, what)
    if not all(length > 0 for length in shape):
        raise ValueError(f"{what}: no pictures; the array is empty ({header.size})")
    if header.fortran_order:
        raise ValueError(
            f"{what}: in Fortran's order each picture lies all over the file; save numpy.ascontiguousarray"
        )
    if len(shape) == 4 and shape[3] in CHANNELS:
        return "N, H, W, C"
    if len(shape) == 4 and shape[1] in CHANNELS:
        return "N, C, H, W"
    if len(shape) == 3 and shape[2] not in CHANNELS:
        return "N, H, W"
    one = "; is it a single picture?" if len(shape) == 3 else ""
    raise ValueError(
        f"{what}: pictures must be [N, H, W, C] or [N, C, H, W] with C of 1, 3 or 4, or [N, H, W]; "
        f"this is {header.size}{one}"
    )


def axes_of_file(header: Header, what: str) -> str:
    """`axes_of_pictures`, or of a single picture: "H, W", "H, W, C" or "C, H, W"."""
    shape = header.shape
    if len(shape) == 2 or (len(shape) == 3 and (shape[2] in CHANNELS or shape[0] in CHANNELS)):
        axes = "H, W" if len(shape) == 2 else "H, W, C" if shape[2] in CHANNELS else "C, H, W"
        one = header._replace(shape=(1, *shape, 1) if len(shape) == 2 else (1, *shape))
        axes_of_pictures(one, what)
        return axes
    return axes_of_pictures(header, what)


def check_numbers(header: Header, what: str) -> None:
    """Raises ValueError where an array isn't of numbers that can be pictures."""
    if header.is_numeric:
        return
    if header.dtype.hasobject:
        kind, advice = "Python objects", "; bring the pictures to one size and numpy.stack them"
    else:
        kind, advice = "records" if header.dtype.names else str(header.dtype), ""
    raise ValueError(f"{what}: pictures must be of numbers, these are {kind}{advice}")


def check_length(header: Header, file_bytes: int, what: str) -> None:
    """Raises ValueError where the file is shorter or longer than its header says."""
    missing = header.offset + header.bytes - file_bytes
    if missing:
        wrong = f"{missing:,} bytes are missing" if missing > 0 else f"{-missing:,} bytes too many"
        raise ValueError(f"{what}: damaged or cut off; of {header.size} pixels, {wrong}")


@contextmanager
def raising_value_error(message: str) -> Generator[None]:
    """Raise a ValueError with this message instead of `PARSER_ERRORS`."""
    try:
        yield
    except PARSER_ERRORS as error:
        raise ValueError(message) from error
