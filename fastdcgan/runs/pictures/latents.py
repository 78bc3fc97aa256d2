"""Which latents pictures are made of: a seed's, one of each of many seeds, or those in a file; and truncation."""

import hashlib
import math
import re
import struct
import tokenize
import warnings
import zipfile
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdcgan.gan.randomness import Stream, latents, rng
from fastdcgan.storage.files import open_regular

MAX_SEED = 2**63 - 1

_CHUNK = 2**12
"""Latents looked at or passed over at a time."""

# What NumPy's parser raises on damaged files.
_PARSER_ERRORS = (
    *(ValueError, TypeError, LookupError, SyntaxError, EOFError, OverflowError, RuntimeError, MemoryError),
    *(struct.error, tokenize.TokenError, zipfile.BadZipFile),
)


class Latents(Protocol):
    """Numbered latents, read in order, of which only a batch is in memory."""

    def __len__(self) -> int: ...

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """z_BL in order, fp32 on the CPU, from number `start` on; the last batch may be smaller."""
        ...

    def name(self, number: int) -> str:
        """Of a picture's file, without a suffix."""
        ...

    def identity(self) -> dict[str, Any]:
        """What the latents are a function of, under the names of options, as JSON has it."""
        ...


@dataclass(frozen=True, kw_only=True)
class SeedLatents:
    """`count` latents of one seed: `latents(seed, Stream.GENERATE, 0, count, latent_dim)`."""

    seed: int
    count: int
    latent_dim: int

    def __len__(self) -> int:
        return self.count

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """As `Latents.batches`. They are drawn one after the other, so those before `start` are drawn as well."""
        generator = rng(self.seed, Stream.GENERATE)
        for first in range(0, start, _CHUNK):
            generator.standard_normal((min(_CHUNK, start - first), self.latent_dim), dtype=np.float32)
        for first in range(start, self.count, size):
            shape = min(size, self.count - first), self.latent_dim
            yield torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    def name(self, number: int) -> str:
        """As `Latents.name`."""
        return f"{number:05d}"

    def identity(self) -> dict[str, Any]:
        """As `Latents.identity`."""
        return {"seed": self.seed, "count": self.count}


@dataclass(frozen=True, kw_only=True)
class LatentOfEachSeed:
    """The first latent of each of many seeds, so that a picture is named by its seed alone."""

    seeds: tuple[range, ...]
    latent_dim: int

    @classmethod
    def parsed(cls, text: str, latent_dim: int) -> "LatentOfEachSeed":
        """From text like `0-99` or `3,7,20-29`. Raises ValueError."""
        seeds = []
        for part in text.split(","):
            found = re.fullmatch(r"\s*([0-9]{1,19})\s*(?:-\s*([0-9]{1,19})\s*)?", part)
            first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, -1)
            if not first <= last <= MAX_SEED:
                raise ValueError(f"--seeds {text}: must be seeds and ranges of them, as in 0-99 or 3,7,20-29")
            seeds.append(range(first, last + 1))
        for below, above in pairwise(sorted(seeds, key=lambda each: each.start)):
            if above.start in below:
                raise ValueError(f"--seeds {text}: names {above.start} twice")
        if sum(each.stop - each.start for each in seeds) > MAX_SEED:
            raise ValueError(f"--seeds {text}: must be fewer than 2**63")
        return cls(seeds=tuple(seeds), latent_dim=latent_dim)

    @cached_property
    def _ends(self) -> list[int]:
        """How many seeds there are up to the end of each range."""
        return list(accumulate(each.stop - each.start for each in self.seeds))

    def __len__(self) -> int:
        return self._ends[-1]

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """As `Latents.batches`."""
        for first in range(start, len(self), size):
            numbers = range(first, min(first + size, len(self)))
            yield torch.cat([latents(self._seed(n), Stream.GENERATE, 0, 1, self.latent_dim) for n in numbers])

    def name(self, number: int) -> str:
        """As `Latents.name`."""
        return f"seed-{self._seed(number):05d}"

    def identity(self) -> dict[str, Any]:
        """As `Latents.identity`."""
        return {"seeds": ",".join(f"{each.start}-{each.stop - 1}" for each in self.seeds)}

    def _seed(self, number: int) -> int:
        position = bisect_right(self._ends, number)
        return self.seeds[position][number - (self._ends[position - 1] if position else 0)]


class LatentsOfFile:
    """Latents from a `.npy`, which is mapped: it must not change meanwhile."""

    def __init__(self, path: Path, latent_dim: int) -> None:
        """Open a file and look at all of it.

        Args:
            path: a `.npy` of fp16, fp32 or fp64, [N, latent_dim] or [N, latent_dim, 1, 1].
            latent_dim: of the generator.

        Raises:
            ValueError: it can't be read, has another shape or kind, or numbers that are not finite.
        """
        try:
            with open_regular(path) as file:
                self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            with warnings.catch_warnings(action="ignore"):  # NumPy's and Python's, of odd headers
                found = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise ValueError(f"--latents {path}: can't be read: {error.strerror or error}") from error
        except _PARSER_ERRORS as error:
            raise ValueError(f"--latents {path}: damaged, or not a .npy file of numbers") from error
        if not isinstance(found, np.ndarray):
            raise ValueError(f"--latents {path}: holds several arrays: save the latents alone by numpy.save")
        fits = found.ndim in (2, 4) and found.shape[1:] == (latent_dim, 1, 1)[: found.ndim - 1]
        if not fits or not len(found) or found.dtype.kind != "f" or found.dtype.itemsize > 8:
            shape = "x".join(map(str, found.shape))
            raise ValueError(
                f"--latents {path}: must be floating-point numbers [N, {latent_dim}], as this generator takes "
                f"{latent_dim} a picture; they are {found.dtype} of {shape or 'a single number'}"
            )
        self._z_NL: NDArray[np.floating[Any]] = found.reshape(len(found), latent_dim)
        for first, z_BL in zip(range(0, len(self), _CHUNK), self.batches(_CHUNK), strict=True):
            finite_B = torch.isfinite(z_BL).all(1)
            if not bool(finite_B.all()):
                row = first + int((~finite_B).nonzero()[0])
                raise ValueError(f"--latents {path}: row {row:,} has numbers that are not finite in fp32")

    def __len__(self) -> int:
        return len(self._z_NL)

    def batches(self, size: int, start: int = 0) -> Iterator[Tensor]:
        """As `Latents.batches`."""
        for first in range(start, len(self), size):
            with np.errstate(over="ignore"):  # it becomes infinite, which is refused
                z_BL = self._z_NL[first : first + size].astype(np.float32)
            yield torch.from_numpy(z_BL)

    def name(self, number: int) -> str:
        """As `Latents.name`."""
        return f"{number:05d}"

    def identity(self) -> dict[str, Any]:
        """As `Latents.identity`."""
        return {"latents": self._sha256}


def truncate(z_BL: Tensor, limit: float) -> Tensor:
    """Standard normal latents as normal ones that lie within (-limit, limit), each moved towards 0, in order.

    The truncation trick (Brock, Donahue & Simonyan 2019, "Large Scale GAN Training for High Fidelity Natural Image
    Synthesis", section 3.1) draws a value anew where it exceeds the limit. Moving each to the same quantile of the
    truncated distribution gives the same distribution; and a picture changes smoothly with the limit, as no draw is
    another one.

    Args:
        z_BL: fp32.
        limit: above 0; 4 and more hardly change anything.
    """
    within = math.erf(limit / math.sqrt(2))
    quantiles_BL = torch.erf(z_BL.double() / math.sqrt(2)) * within  # of the absolute value, with its sign
    return (torch.erfinv(quantiles_BL) * math.sqrt(2)).clamp(-limit, limit).to(z_BL.dtype)
