"""What one version of the package finds in data and in the cache folder, again and again: a line of JSON for each look.

    PYTHONPATH=VERSION python looks.py DATA LOOKS

Half of the looks come after something of the cache has been removed.
"""

import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from fastdcgan.data.duplicates import find_copies
from fastdcgan.data.faces.dataset import faces_folder
from fastdcgan.data.open import open_source
from fastdcgan.evaluation.extractors import Extractor
from fastdcgan.evaluation.features import real_features

EXTRACTOR = Extractor(
    name="means",
    frechet_label="",
    kernel_label="",
    features=3,
    identity="means",
    features_of=lambda pictures_BHWC: pictures_BHWC.cpu().float().mean((1, 2)),
)


def opened(path: Path, cache: Any) -> Any:
    return open_source(str(path), resolution=16, channels=3, device="cpu", threads=1, decoder="pillow", cache=cache)


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def pixels(source: Any) -> bytes:
    return torch.cat(list(source.read([range(len(source))]))).numpy().tobytes()


def look(data: Path) -> dict[str, str]:
    """A digest of each thing that is cached."""
    found = {}
    for path in sorted(data.iterdir()):
        source = opened(path, "on")
        streamed = opened(path, "off")
        reasons = [skip.reason for skip in streamed.skipped]
        found[f"pack of {path.name}"] = digest(pixels(source))
        found[f"index of {path.name}"] = digest(
            reasons, streamed.encoded.name(0).rsplit("/", 1)[-1].rsplit(": ", 1)[-1]
        )
        found[f"copies in {path.name}"] = digest(find_copies(streamed).copies.tolist())
        features = real_features(source, len(source), EXTRACTOR, flip=False)
        found[f"features of {path.name}"] = digest(features.features.tobytes())
    portraits = sorted(faces_folder(count=3, size=16).iterdir())
    found["faces"] = digest(*(path.read_bytes() for path in portraits))
    return found


def main(data: Path, looks: int) -> None:
    cache, chance = Path(os.environ["FASTDCGAN_CACHE"]), random.Random(os.getpid())
    for number in range(looks):
        try:
            said: Any = look(data)
        except ValueError as refusal:
            said = str(refusal)
        print(json.dumps(said), flush=True)
        if number % 2:
            there = sorted(cache.iterdir()) if cache.exists() else []
            for path in chance.sample(there, min(1, len(there))):
                shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
