"""Pictures decoded by NVIDIA DALI, on the CPU or a GPU. The only file that imports DALI.

Held to `pillow.py` by tests. Decoding is the same bit for bit on the CPU; where a picture is resized, levels differ by
rounding, and more only in the outermost row or column where DALI repeats the border and Pillow leaves it out.
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

from fastdcgan.data.decoding.ahead import work_ahead
from fastdcgan.data.decoding.encoded import EncodedPictures
from fastdcgan.data.decoding.picture import alone_if_large, fit_box, open_fitted
from fastdcgan.data.source import Skipped

MAX_BATCH = 65_536
"""The longest batch; a bound that DALI asks for, and that costs nothing."""

QUEUE_DEPTH = 3
"""Pieces of batches inside DALI: one being handed over, two under way."""

PIECE = 2**24
"""Pixels, and bytes of files, that DALI gets at a time for each of its threads. DALI decodes all it was given in full
before it resizes: a batch of 128 photographs of 12 megapixels would take 4.6 GB."""


_Feed = tuple[list[NDArray[np.uint8]], NDArray[np.float32], NDArray[np.float32]]
"""Encoded pictures, and the part of each that is kept: (top, left) and (bottom, right), float32 [B, 2] each."""


def dali_available() -> bool:
    """Whether DALI is installed (it is made for Linux only)."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


def _dali_version() -> str:
    try:
        return version("nvidia-dali-cuda130")  # importing it takes half a second
    except PackageNotFoundError:
        return str(importlib.import_module("nvidia.dali").__version__)


class DaliSource:
    """An `ImageSource` of square pictures, decoded into the memory of the device.

    Pictures that are not `plain` (CMYK, palettes, transparency, 16 bits, turned, animated), and those few that DALI
    refuses though Pillow reads them, are decoded and fitted by Pillow: what a picture looks like depends on its file
    alone.

    Args:
        encoded: their files.
        resolution: side of the pictures.
        channels: 1 (grey) or 3 (RGB).
        device: a CUDA device by its number, or None for the CPU.
        threads: DALI's threads; as many again read files, and decode what DALI doesn't.
    """

    description: str
    origin: str
    skipped: Sequence[Skipped]

    def __init__(
        self, encoded: EncodedPictures, *, resolution: int, channels: int, device: int | None, threads: int
    ) -> None:
        assert channels in (1, 3), channels
        where = "the CPU" if device is None else f"GPU {device}"
        by_pillow = sum(not encoded.examined(number).plain for number in range(len(encoded)))
        rest = f", {by_pillow:,} of them by Pillow" if by_pillow else ""
        self.description = f"{len(encoded):,} pictures in {encoded.origin}, decoded by DALI on {where}{rest}"
        self.origin, self.skipped = encoded.origin, encoded.skipped
        self.encoded = encoded
        self._resolution = resolution
        self._channels = channels
        self._device = device
        self._threads = threads
        self._refused: set[int] = set()

    def __len__(self) -> int:
        """How many usable pictures there are."""
        return len(self.encoded)

    @property
    def fingerprint(self) -> str:
        """See `ImageSource.fingerprint`."""
        where = "CPU" if self._device is None else "GPU"
        return f"DALI {_dali_version()} on a {where}, Pillow {PIL.__version__}: {self.encoded.fingerprint}"

    def read(self, batches: Iterable[Sequence[int]]) -> Generator[Tensor]:
        """See `ImageSource.read`. Raises ValueError naming a file that vanished or changed since it was checked."""
        loaded = work_ahead(
            lambda piece: (piece, len(self._refused), self._load(piece.numbers)),  # in this order
            self._pieces(batches),
            threads=self._threads,
            ahead=self._threads + 1,
            weigh=lambda piece: piece.bytes,
            most=2 * PIECE * self._threads,
        )
        again: deque[_Piece] = deque()
        in_dali: deque[tuple[_Piece, int]] = deque()  # and how many refused pictures were known when it was loaded
        done: list[Tensor] = []

        def feed() -> _Feed:
            if again:
                piece, known = again.popleft(), len(self._refused)
                files = self._load(piece.numbers)
            else:
                piece, known, files = next(loaded)
                if known < len(self._refused) and not self._refused.isdisjoint(piece.numbers):
                    known, files = len(self._refused), self._load(piece.numbers)
            in_dali.append((piece, known))
            return files

        with closing(loaded):
            pipeline = self._pipeline(feed)
            while True:
                try:
                    (output,) = pipeline.run(self._stream())
                except StopIteration:
                    return
                except RuntimeError:
                    # One picture that DALI refuses costs it the pipeline and all that is in there.
                    before = min((known for _, known in in_dali), default=len(self._refused))
                    self._refused |= set().union(*(self._find_refused(piece.numbers) for piece, _ in in_dali))
                    if len(self._refused) == before:
                        raise
                    again.extendleft(piece for piece, _ in reversed(in_dali))
                    in_dali.clear()
                    pipeline = self._pipeline(feed)
                    continue
                done.append(self._own(output))
                if in_dali.popleft()[0].ends_batch:
                    pictures_BHWC = torch.cat(done) if len(done) > 1 else done[0]
                    done.clear()
                    yield pictures_BHWC

    def _pieces(self, batches: Iterable[Sequence[int]]) -> "Generator[_Piece]":
        """Batches, cut where DALI would need too much memory for them."""
        for numbers in batches:
            piece: list[int] = []
            pixels = size = 0
            for number in numbers:
                picture = self.encoded.examined(number)
                pixels += picture.width * picture.height
                size += picture.bytes
                if piece and max(pixels, size) > PIECE * self._threads:
                    yield _Piece(piece, size - picture.bytes, ends_batch=False)
                    piece, pixels, size = [], picture.width * picture.height, picture.bytes
                piece.append(number)
            yield _Piece(piece, size, ends_batch=True)

    def _load(self, numbers: Sequence[int]) -> "_Feed":
        files = []
        starts = np.zeros((len(numbers), 2), np.float32)
        ends = np.full((len(numbers), 2), self._resolution, np.float32)
        for i, number in enumerate(numbers):
            picture = self.encoded.examined(number)
            if picture.plain and number not in self._refused:
                left, top, right, bottom = fit_box(picture.width, picture.height, self._resolution)
                starts[i], ends[i] = (top, left), (bottom, right)
                data = self.encoded.read_bytes(number)
            else:
                with alone_if_large(picture.bytes):
                    data = self._decoded_by_pillow(self.encoded.read_bytes(number))
            files.append(np.frombuffer(data, np.uint8))
        return files, starts, ends

    def _decoded_by_pillow(self, data: bytes) -> bytes:
        """A picture as the bytes of a BMP file that needs no more than copying."""
        file = BytesIO()
        open_fitted(data, self._channels, self._resolution).convert("RGB").save(file, "BMP")
        return file.getvalue()

    def _pipeline(self, feed: Callable[[], object]) -> Any:
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
            files, starts, ends = fn.external_source(
                feed, num_outputs=3, batch=True, dtype=[types.UINT8, types.FLOAT, types.FLOAT]
            )
            # Pillow has turned the pictures that need it: DALI reads EXIF alone, and reads damaged EXIF otherwise.
            pictures = fn.decoders.image(
                files,
                device="cpu" if self._device is None else "mixed",
                output_type=types.RGB,
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )
            # `size` of a part of the picture: resizing and cutting out in one go.
            pictures = fn.resize(
                pictures,
                roi_start=starts,
                roi_end=ends,
                size=(self._resolution, self._resolution),
                interp_type=types.INTERP_LINEAR,
                antialias=True,
            )
            if self._channels == 1:
                # Not decoded as grey: JPEG's own grey differs from that of its colours where these are clipped.
                pictures = fn.color_space_conversion(pictures, image_type=types.RGB, output_type=types.GRAY)
            pipeline.set_outputs(pictures)
        pipeline.build()
        return pipeline

    def _find_refused(self, numbers: Sequence[int]) -> set[int]:
        if not self._refuses(numbers):
            return set()
        if len(numbers) == 1:
            return set(numbers)
        half = len(numbers) // 2
        return self._find_refused(numbers[:half]) | self._find_refused(numbers[half:])

    def _refuses(self, numbers: Sequence[int]) -> bool:
        feeds = iter([self._load(numbers)])
        try:
            self._pipeline(lambda: next(feeds)).run()
        except RuntimeError:
            return True
        return False

    def _stream(self) -> torch.cuda.Stream | None:
        return None if self._device is None else torch.cuda.current_stream(self._device)

    def _own(self, output: Any) -> Tensor:
        """A copy that stays when DALI uses its buffer again."""
        torch_plugin: Any = importlib.import_module("nvidia.dali.plugin.pytorch")
        pixels = output.as_tensor()
        device = "cpu" if self._device is None else f"cuda:{self._device}"
        pictures = torch.empty(pixels.shape(), dtype=torch.uint8, device=device)
        torch_plugin.feed_ndarray(pixels, pictures, cuda_stream=self._stream())
        return pictures


class _Piece(NamedTuple):
    """Pictures that DALI gets at a time: a batch, or a part of one."""

    numbers: Sequence[int]
    bytes: int
    ends_batch: bool
