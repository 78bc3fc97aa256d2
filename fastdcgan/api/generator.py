"""What a run has learned to draw with: a network to sample from, in PyTorch's and the Hugging Face Hub's ways."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, cast

import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fastdcgan.api.run import Run
from fastdcgan.config import ModelConfig, TrainConfig, flat, from_flat
from fastdcgan.gan import models
from fastdcgan.gan.architecture import Architecture
from fastdcgan.runs.checkpoints.folder import Named
from fastdcgan.runs.checkpoints.tensors import cpu_copies, weights
from fastdcgan.runs.classes import class_numbers, labels_in_turn
from fastdcgan.runs.generate import check_request, load_generator, pictures_of
from fastdcgan.runs.interpolate import closed_path, waypoints
from fastdcgan.runs.pictures.latents import SeedLatents
from fastdcgan.runs.pictures.stream import picture_batches
from fastdcgan.runs.pictures.writers import tiled
from fastdcgan.runs.sampling import generate_uint8
from fastdcgan.storage.files import replacing

Kind = Literal["array", "tensor", "pil"]

CARD = """---
{{ card_data }}
---

# A generator of pictures

A DCGAN's generator, trained by fastdcgan.

```python
from fastdcgan import Generator

generator = Generator.from_pretrained("FOLDER OR NAME ON THE HUB")
generator.grid(64, seed=0)
```
"""


class Generator(
    models.Generator,
    PyTorchModelHubMixin,
    library_name="fastdcgan",
    pipeline_tag="unconditional-image-generation",
    tags=["dcgan", "gan"],
    model_card_template=CARD,
):
    """A DCGAN's generator, in evaluation mode: noise [B, latent_dim] to pictures [B, C, H, W] in [-1, 1].

    >>> generator = Generator.from_run("runs/first")
    >>> [picture_HWC.shape for picture_HWC in generator.sample(2, seed=7)]
    [(16, 16, 3), (16, 16, 3)]
    >>> generator.save_pretrained("mine")
    >>> same = Generator.from_pretrained("mine")
    >>> next(same.sample(1, seed=7)).tolist() == next(generator.sample(1, seed=7)).tolist()
    True

    `save_pretrained` and `push_to_hub` are `PyTorchModelHubMixin`'s: config.json and model.safetensors.
    """

    def __init__(self, **model: Any) -> None:
        """A new one, of random weights. `model`: the options of the networks, such as `arch="dcgan64", width=32`.

        Raises:
            ValueError: there is no such network.
        """
        classes = model.pop("classes", ())
        self.arch = from_flat({**flat(TrainConfig()), **model}).model.architecture().with_classes(classes)
        super().__init__(self.arch)
        self.eval()

    @classmethod
    def from_run(
        cls,
        run: Run | str | os.PathLike[str],
        *,
        checkpoint: Named = "latest",
        weights: Literal["average", "last"] = "average",
    ) -> Self:
        """The generator of a run, on a GPU if there is one.

        Args:
            run: or its folder.
            checkpoint: a step, "best", or "latest": the newest that is whole; that newer ones are not is warned of.
            weights: average: those of G's moving average, where the run has one. last: as the last step left them.

        Raises:
            ValueError: there is no such run, or no such checkpoint in it, or no such weights.
        """
        if weights not in ("average", "last"):
            raise ValueError(f"--weights {weights}: must be average or last")
        folder = run.path if isinstance(run, Run) else Path(run)
        network, arch, _, skipped = load_generator(folder, raw=weights == "last", checkpoint=checkpoint)
        for line in skipped:
            warnings.warn(f"passed over: {line}", stacklevel=2)
        return cls.of(arch, network.state_dict())

    @classmethod
    def of(cls, arch: Architecture, tensors: dict[str, Tensor]) -> Self:
        """The generator of an architecture with these weights and buffers, which stay where they are."""
        model = asdict(ModelConfig.of(arch))
        return cls._of({**model, "classes": list(arch.classes)} if arch.classes else model, tensors)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it has learned, by number; () for none."""
        return self.arch.classes

    def sample(
        self,
        count: int,
        seed: int = 0,
        *,
        label: str | Sequence[str] | None = None,
        truncation: float | None = None,
        kind: Kind = "array",
    ) -> Iterator[Any]:
        """New pictures, those of `fastdcgan generate` for the same seed, made as they are asked for.

        >>> import itertools, numpy as np
        >>> pictures = Generator.from_run("runs/first").sample(10**9, seed=3)
        >>> np.stack(list(itertools.islice(pictures, 100))).shape
        (100, 16, 16, 3)

        Args:
            count: how many, at least 1; a batch of them is in memory.
            seed: they are a function of it, and the first ones don't depend on `count`.
            label: of which class they are; of several: in turn. None: of all that it has learned, in turn.
            truncation: of the noise, to within so many standard deviations: fewer, more typical pictures. None: none.
            kind: array: uint8 NumPy arrays [H, W, C]. tensor: uint8 tensors [C, H, W] on the CPU. pil: Pillow's images.

        Raises:
            ValueError: a number is out of range, or there is no such class.
        """
        check_request(count, seed, None, None, truncation)
        latents = SeedLatents(seed=seed, count=count, latent_dim=self.arch.latent_dim)
        classes = class_numbers(_names(label), self.arch)
        batches = picture_batches(self, self.arch, latents, truncation=truncation, classes=classes)
        return (_as(kind, picture_HWC) for pictures_BHWC in batches for picture_HWC in pictures_BHWC)

    def walk(
        self, frames: int = 60, seed: int = 0, *, path: int = 0, label: str | None = None, kind: Kind = "array"
    ) -> Iterator[Any]:
        """Pictures along a closed path through the latents: the walks of `fastdcgan interpolate` for the same seed.

        Args:
            frames: how many, at least 2; the one after the last would be the first again.
            seed: the path is a function of it.
            path: which of the walks that are shown beside each other; it begins at that picture of `sample`.
            label: its class. None: that of the picture.
            kind: as for `sample`.

        Raises:
            ValueError: a number is out of range.
        """
        check_request(frames, seed, None, None, None)
        waypoints_WBL = waypoints(self.arch, seed)
        if frames < 2 or not 0 <= path < waypoints_WBL.shape[1]:
            raise ValueError(
                f"frames {frames}, path {path}: at least 2 frames, of path 0 to {waypoints_WBL.shape[1] - 1}"
            )
        latents_F1L = closed_path(waypoints_WBL[:, path : path + 1], frames)
        label_1 = labels_in_turn(class_numbers(_names(label), self.arch), 1, path)
        return (_as(kind, generate_uint8(self, z_1L, label_1)[0]) for z_1L in latents_F1L)

    def grid(
        self,
        count: int = 64,
        seed: int = 0,
        *,
        label: str | Sequence[str] | None = None,
        truncation: float | None = None,
    ) -> Image.Image:
        """Pictures in one, as `fastdcgan generate --out grid.png` writes it: with a row a class, if there are few.

        Raises:
            ValueError: a number is out of range.
        """
        check_request(count, seed, None, None, truncation)
        classes = class_numbers(_names(label), self.arch)
        latents = SeedLatents(seed=seed, count=count, latent_dim=self.arch.latent_dim)
        pictures = pictures_of(self, self.arch, latents, truncation=truncation, classes=classes)
        return cast(Image.Image, _as("pil", tiled(pictures)))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Weights as safetensors, which needs them contiguous, whole or not at all."""
        with replacing(save_directory / SAFETENSORS_SINGLE_FILE) as file:
            file.write(safetensors.torch.save(cpu_copies(weights(self)), {"format": "pt"}))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        strict: bool = True,
        **model: Any,
    ) -> Self:
        """Every tensor has to fit, and be finite; nothing but tensors is read. Raises ValueError."""
        file = Path(model_id) / SAFETENSORS_SINGLE_FILE
        if not Path(model_id).is_dir():
            file = Path(
                hf_hub_download(
                    repo_id=model_id,
                    filename=SAFETENSORS_SINGLE_FILE,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )
            )
        if not model or not file.is_file():
            raise ValueError(f"{model_id} is no generator: it needs {CONFIG_NAME} and {SAFETENSORS_SINGLE_FILE}")
        try:
            with torch.device("meta"):
                expected = weights(cls(**model))
            return cls._of(model, _read(file, expected)).to(map_location)
        except (ValueError, OSError, SafetensorError) as error:
            raise ValueError(f"{model_id} is no generator that this version reads: {error}") from error

    @classmethod
    def _of(cls, model: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        with torch.device("meta"):  # without drawing weights that aren't used
            generator = cls(**model)
        generator.load_state_dict(tensors, assign=True)
        # By the layout of channels last twice as many pictures a second were made on CPUs.
        return generator.to(memory_format=torch.channels_last)


def _names(label: str | Sequence[str] | None) -> Sequence[str]:
    return (label,) if isinstance(label, str) else label or ()


def _read(file: Path, expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are as expected. Raises ValueError, naming the first that is not."""
    with safe_open(file, "pt") as found:
        for name in sorted({*found.keys(), *expected}):
            there = list(found.get_slice(name).get_shape()) if name in found.keys() else "missing"  # noqa: SIM118
            here = list(expected[name].shape) if name in expected else "unknown"
            if there != here:
                raise ValueError(f"{name} is {there} there, {here} here")
        tensors: dict[str, Tensor] = {name: found.get_tensor(name) for name in expected}
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"{name} has numbers that are not finite")
    return tensors


def _as(kind: Kind, picture_HWC: NDArray[Any]) -> Any:
    match kind:
        case "array":
            return picture_HWC
        case "tensor":
            return torch.from_numpy(picture_HWC).permute(2, 0, 1)
        case "pil":
            return Image.fromarray(picture_HWC[:, :, 0] if picture_HWC.shape[2] == 1 else picture_HWC)
    raise ValueError(f"kind {kind!r}: must be array, tensor or pil")
