"""Features of real pictures, exactly as training sees them, and of generated ones."""

import hashlib
import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastdcgan.data.arrays.npy import PARSER_ERRORS
from fastdcgan.data.decoding.prefetch import prefetch_map
from fastdcgan.data.source import ImageSource
from fastdcgan.data.stream import mirror
from fastdcgan.evaluation.extractors import Extractor
from fastdcgan.gan.randomness import Stream, rng
from fastdcgan.runs.sampling import generate_uint8
from fastdcgan.storage.cache import cache_folder, read_cached, write_cached

BATCH = 16
"""Pictures that are read or generated at a time."""

_EXTRACTED_AT_ONCE = 4
"""Of these, by one thread. The extractor's largest layer makes 5 MB of a picture: more leave the caches."""

FORMAT = 1
"""Of the cached features: another one after each change of what is done to pictures."""

Features = NDArray[np.float32]
"""[N, F], a row a picture."""

OnProgress = Callable[[int, int], None]
"""Called with how many pictures are done, of how many."""


@dataclass(frozen=True, kw_only=True)
class RealSide:
    """What generated pictures are compared with."""

    features: Features
    identity: str
    """Of these pictures' pixels: the same on every machine that has them."""


def real_features(
    source: ImageSource, count: int, extractor: Extractor, *, flip: bool, on_progress: OnProgress | None = None
) -> RealSide:
    """Features of `count` pictures of a source, drawn once and for all: from the cache, or computed and kept there.

    Args:
        source: as training reads it: resized, cropped and packed.
        count: at most as many as it has.
        extractor: of the features.
        flip: whether training mirrors pictures with probability one half; then so are these.
        on_progress: told how far it is.

    Raises:
        ValueError: a picture can't be read any more.
    """
    assert 0 < count <= len(source), (count, len(source))
    numbers = np.sort(rng(0, Stream.EVALUATE_REAL).permutation(len(source))[:count])
    mirrored_N = rng(0, Stream.EVALUATE_REAL, 1).random(count) < 0.5 if flip else np.zeros(count, bool)
    path = cache_folder() / "features" / f"{_cache_key(source, count, extractor, flip=flip)}.npz"
    if (cached := _load(path, count)) is not None:
        return cached
    starts = range(0, count, BATCH)
    digest = hashlib.sha256()

    def batches() -> Iterator[Tensor]:
        with closing(source.read(numbers[start : start + BATCH].tolist() for start in starts)) as read:
            for start, pictures_BHWC in zip(starts, read, strict=True):
                mirrored_M = torch.from_numpy(np.flatnonzero(mirrored_N[start : start + BATCH]))
                pictures_BHWC = mirror(pictures_BHWC.cpu(), mirrored_M)
                digest.update(np.ascontiguousarray(pictures_BHWC.numpy()).data)
                yield pictures_BHWC

    features_NF = _features(batches(), count, extractor, on_progress)
    identity = digest.hexdigest()[:16]
    kept = io.BytesIO()
    np.savez(kept, features=features_NF, identity=np.array(identity))
    write_cached(path, kept.getvalue())
    return RealSide(features=features_NF, identity=identity)


def _load(path: Path, count: int) -> RealSide | None:
    """What is cached; None where there is nothing, or not features of so many pictures."""
    try:
        with np.load(io.BytesIO(read_cached(path) or b""), allow_pickle=False) as found:
            features_NF, identity = found["features"], str(found["identity"])
    except PARSER_ERRORS:
        return None
    sound = features_NF.ndim == 2 and len(features_NF) == count and features_NF.dtype.kind == "f"
    return RealSide(features=features_NF, identity=identity) if sound else None


def _cache_key(source: ImageSource, count: int, extractor: Extractor, *, flip: bool) -> str:
    """Another one wherever the features of `real_features` would be others."""
    parts = [FORMAT, source.fingerprint, len(source), count, flip, extractor.name, extractor.identity]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def generated_features(
    generator: nn.Module,
    z_NL: Tensor,
    extractor: Extractor,
    on_progress: OnProgress | None = None,
    labels_N: Tensor | None = None,
) -> Features:
    """Features of the pictures that a generator makes of noise. Nothing of the generator is changed.

    Args:
        generator: the plain module, on any device.
        z_NL: noise, fp32 on the CPU.
        extractor: of the features.
        on_progress: told how far it is.
        labels_N: the class of each, int64 on the CPU, where there are classes.
    """
    inputs = zip(*(tensor.split(BATCH) for tensor in (z_NL, labels_N) if tensor is not None), strict=True)
    batches = (torch.from_numpy(generate_uint8(generator, *input_B)) for input_B in inputs)
    return _features(batches, len(z_NL), extractor, on_progress)


def _features(
    batches_BHWC: Iterable[Tensor], count: int, extractor: Extractor, on_progress: OnProgress | None
) -> Features:
    """Several threads have pictures of their own, so that none waits for another within the extractor's 60 layers."""
    features_NF: Features = np.empty((count, extractor.features), np.float32)
    done = 0
    pieces_BHWC = chain.from_iterable(batch_BHWC.split(_EXTRACTED_AT_ONCE) for batch_BHWC in batches_BHWC)
    threads = torch.get_num_threads()

    def extract(pictures_BHWC: Tensor) -> Features:
        torch.set_num_threads(1)  # of this thread, and of those that begin after it
        return extractor.features_of(pictures_BHWC).numpy()

    def by_threads() -> Generator[Features]:
        try:
            yield from prefetch_map(extract, pieces_BHWC, threads=extractor.threads, depth=2 * extractor.threads)
        finally:
            torch.set_num_threads(threads)

    def here() -> Iterator[Features]:
        return (extractor.features_of(pictures_BHWC).numpy() for pictures_BHWC in pieces_BHWC)

    with closing(by_threads()) if extractor.threads > 1 else nullcontext(here()) as found:
        for features_BF in found:
            features_NF[done : done + len(features_BF)] = features_BF
            done += len(features_BF)
            if on_progress is not None:
                on_progress(done, count)
    assert done == count, (done, count)
    return features_NF
