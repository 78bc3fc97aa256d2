"""Pictures decoded by NVIDIA DALI, on the CPU or a GPU. The only file that imports DALI.

Tests compare it with `pillow.py`. On the CPU decoding is the same bit for bit. Where a picture is resized, values
differ by rounding, and by more only in the outermost row or column, where DALI repeats the border and Pillow leaves it
out.
"""

import importlib.util
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdcgan.data.arrays.value_range import ValueRange
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.fitting import Frame, fit_box, fit_geometry
from fastdcgan.data.decoding.picture import lock_if_large, open_fitted
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.labels import Labels
from fastdcgan.data.source import Skipped
from fastdcgan.storage.wording import counted

INSTALL_DALI = "pip install nvidia-dali-cuda130"
"""The command that does."""

MAX_BATCH = 65_536
"""Bound of a batch's length, which DALI asks for and which costs nothing."""

QUEUE_DEPTH = 3
"""Pieces of batches inside DALI: one is handed over, two are decoded."""

PIECE_LIMIT = 2**24
"""Limit of the pixels, and of the bytes of files, in a piece, for each of DALI's threads. DALI decodes a whole piece
before it resizes: a batch of 128 photographs of 12 megapixels would take 4.6 GB."""


_DaliInput = tuple[list[NDArray[np.uint8]], *tuple[NDArray[np.float32], ...]]
"""Encoded pictures; and fp32 [B, 2], the vertical number first: (top, left) and (bottom, right) of the part of each
that is kept. To pad also the (height, width) that it is resized to, and the frame's (top, left) in that."""


def dali_available() -> bool:
    """Whether DALI is installed (it exists for Linux only)."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def _dali_version() -> str:
    try:
        return version("nvidia-dali-cuda130")  # importing it takes half a second
    except PackageNotFoundError:
        return str(importlib.import_module("nvidia.dali").__version__)


def imported_dali_version() -> str:
    """DALI's version, once all of it is imported that decoding needs. Raises whatever that does."""
    for name in ("nvidia.dali", "nvidia.dali.fn", "nvidia.dali.types", "nvidia.dali.plugin.pytorch"):
        importlib.import_module(name)
    return _dali_version()


class DaliSource:
    """An `ImageSource` that decodes into the memory of the device.

    Pictures that are not `plain` (CMYK, palettes, transparency, 16 bits, rotated by EXIF, animated), and the few that
    DALI refuses though Pillow reads them, are decoded and resized by Pillow: its pixels are the reference.

    Args:
        encoded: the picture files.
        frame: what the pictures given out are brought to.
        channels: 1 (grey) or 3 (RGB).
        device: number of a CUDA device; None for the CPU.
        threads: of DALI; as many again read files and decode by Pillow.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]
    value_range: ValueRange | None = None

    def __init__(
        self, encoded: EncodedPictures, *, frame: Frame, channels: int, device: int | None, threads: int
    ) -> None:
        assert channels in (1, 3), channels
        where = "the CPU" if device is None else f"GPU {device}"
        by_pillow = sum(not encoded.info(number).plain for number in range(len(encoded)))
        how = f"DALI on {where}" + (f", {by_pillow:,} of them by Pillow" if by_pillow else "")
        if by_pillow == len(encoded):
            how = "Pillow (DALI would make other pixels of all of them)"
        self.description = f"{counted(len(encoded), 'picture')} in {encoded.origin}, decoded by {how}"
        self.origin, self.skipped = encoded.origin, encoded.skipped
        self.encoded = encoded
        self._frame = frame
        self._channels = channels
        self._device = device
        self._threads = threads
        self._refused: set[int] = set()

    def __len__(self) -> int:
        """How many usable pictures there are."""
        return len(self.encoded)

    @property
    def labels(self) -> Labels | None:
        """See `ImageSource.labels`."""
        return self.encoded.labels

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        where = "CPU" if self._device is None else "GPU"
        return f"DALI {_dali_version()} on a {where}, Pillow {PIL.__version__}: {self.encoded.fingerprint}"

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`. Raises ValueError naming a file that vanished or changed since it was checked."""
        loaded = prefetch_map(
            lambda piece: (piece, len(self._refused), self._load(piece.numbers)),  # the count before the load
            self._pieces(batches),
            threads=self._threads,
            depth=self._threads + 1,
            weight_of=lambda piece: piece.bytes,
            max_weight=2 * PIECE_LIMIT * self._threads,
        )
        retries: deque[_Piece] = deque()
        in_dali: deque[tuple[_Piece, int]] = deque()  # with the count of refused pictures when it was loaded
        done: list[Tensor] = []

        def next_input() -> _DaliInput:
            if retries:
                piece, known = retries.popleft(), len(self._refused)
                files = self._load(piece.numbers)
            else:
                piece, known, files = next(loaded)
                if known < len(self._refused) and not self._refused.isdisjoint(piece.numbers):
                    known, files = len(self._refused), self._load(piece.numbers)
            in_dali.append((piece, known))
            return files

        with closing(loaded):
            pipeline = self._pipeline(next_input)
            while True:
                try:
                    (output,) = pipeline.run(self._stream())
                except StopIteration:
                    return
                except RuntimeError:
                    # A picture that DALI refuses breaks the pipeline: find it, and load again what was in there.
                    before = min((known for _, known in in_dali), default=len(self._refused))
                    self._refused |= set().union(*(self._find_refused(piece.numbers) for piece, _ in in_dali))
                    if len(self._refused) == before:
                        raise
                    retries.extendleft(piece for piece, _ in reversed(in_dali))
                    in_dali.clear()
                    pipeline = self._pipeline(next_input)
                    continue
                done.append(self._copy_out(output))
                if in_dali.popleft()[0].ends_batch:
                    pictures_BHWC = torch.cat(done) if len(done) > 1 else done[0]
                    done.clear()
                    yield pictures_BHWC

    def _pieces(self, batches: Iterable[Sequence[int]]) -> "Generator[_Piece]":
        """Batches, split where DALI would need too much memory for them."""
        for numbers in batches:
            piece: list[int] = []
            pixels = size = 0
            for number in numbers:
                picture = self.encoded.info(number)
                pixels += picture.width * picture.height
                size += picture.bytes
                if piece and max(pixels, size) > PIECE_LIMIT * self._threads:
                    yield _Piece(piece, size - picture.bytes, ends_batch=False)
                    piece, pixels, size = [], picture.width * picture.height, picture.bytes
                piece.append(number)
            yield _Piece(piece, size, ends_batch=True)

    def _load(self, numbers: Sequence[int]) -> _DaliInput:
        files = []
        starts = np.zeros((len(numbers), 2), np.float32)
        ends = np.full((len(numbers), 2), self._frame.size, np.float32)
        sizes, corners = ends.copy(), starts.copy()
        for i, number in enumerate(numbers):
            picture = self.encoded.info(number)
            if picture.plain and number not in self._refused:
                left, top, right, bottom = fit_box(picture.width, picture.height, self._frame)
                starts[i], ends[i] = (top, left), (bottom, right)
                if self._frame.fit == "pad":
                    place = fit_geometry(picture.width, picture.height, self._frame)
                    sizes[i], corners[i] = (place.height, place.width), (place.top, place.left)
                data = self.encoded.read_bytes(number)
            else:
                with lock_if_large(picture.bytes):
                    data = self._decoded_by_pillow(self.encoded.read_bytes(number))
            files.append(np.frombuffer(data, np.uint8))
        placed = (sizes, corners) if self._frame.fit == "pad" else ()
        return files, starts, ends, *placed

    def _decoded_by_pillow(self, data: bytes) -> bytes:
        """A picture as a BMP file of the final size, which DALI only has to copy."""
        file = BytesIO()
        open_fitted(data, self._channels, self._frame).convert("RGB").save(file, "BMP")
        return file.getvalue()

    def _pipeline(self, next_input: Callable[[], object]) -> Any:
        # Late, because it takes half a second; through importlib, because DALI's type stubs are incomplete.
        dali: Any = importlib.import_module("nvidia.dali")
        fn, types = dali.fn, dali.types
        pipeline = dali.Pipeline(
            batch_size=MAX_BATCH,
            num_threads=self._threads,
            device_id=self._device,
            prefetch_queue_depth=QUEUE_DEPTH,
        )
        with pipeline:
            kinds = [types.UINT8, *(4 if self._frame.fit == "pad" else 2) * [types.FLOAT]]
            files, starts, ends, *placed = fn.external_source(
                next_input, num_outputs=len(kinds), batch=True, dtype=kinds
            )
            # Pillow decodes the rotated ones: DALI knows orientation from EXIF alone, and reads damaged EXIF otherwise.
            pictures = fn.decoders.image(
                files,
                device="cpu" if self._device is None else "mixed",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )
            # Crop and resize in one operation.
            pictures = fn.resize(
                pictures,
                roi_start=starts,
                roi_end=ends,
                size=placed[0] if placed else list(self._frame.size),
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            if placed:
                corner, shape = fn.cast(placed[1], dtype=types.INT32), list(self._frame.size)
                pictures = fn.slice(pictures, start=corner, shape=shape, axes=(0, 1), out_of_bounds_policy="pad")
            if self._channels == 1:
                # Not decoded as grey: a JPEG's luma differs from the grey of its RGB where colours are clipped.
                pictures = fn.color_space_conversion(pictures, image_type=types.RGB, output_type=types.GRAY)
            pipeline.set_outputs(pictures)
        pipeline.build()
        return pipeline

    def _find_refused(self, numbers: Sequence[int]) -> set[int]:
        if not self._is_refused(numbers):
            return set()
        if len(numbers) == 1:
            return set(numbers)
        half = len(numbers) // 2
        return self._find_refused(numbers[:half]) | self._find_refused(numbers[half:])

    def _is_refused(self, numbers: Sequence[int]) -> bool:
        inputs = iter([self._load(numbers)])
        try:
            self._pipeline(lambda: next(inputs)).run()
        except RuntimeError:
            return True
        return False

    def _stream(self) -> torch.cuda.Stream | None:
        return None if self._device is None else torch.cuda.current_stream(self._device)

    def _copy_out(self, output: Any) -> Tensor:
        """A copy in a tensor of our own: DALI reuses its buffer."""
        torch_plugin: Any = importlib.import_module("nvidia.dali.plugin.pytorch")
        pixels = output.as_tensor()
        device = "cpu" if self._device is None else f"cuda:{self._device}"
        pictures = torch.empty(pixels.shape(), dtype=torch.uint8, device=device)
        torch_plugin.feed_ndarray(pixels, pictures, cuda_stream=self._stream())
        return pictures


class _Piece(NamedTuple):
    """A batch, or a part of one, that DALI decodes at a time."""

    numbers: Sequence[int]
    bytes: int
    ends_batch: bool
