"""How a picture of any size is brought to the size that a network makes: by Pillow, as the reference for others."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from PIL import Image

from fastdcgan.gan.architecture import Resolution, Size

Fit = Literal["crop", "pad", "stretch"]

CROP_FIRST_ASPECT = 4
"""Pictures whose aspect ratio differs by a larger factor are cropped and resized in one step (see `fit`)."""


@dataclass(frozen=True)
class Frame:
    """The size that pictures are brought to, and how."""

    size: Size
    fit: Fit = "crop"
    """crop: scaled to cover the size, the middle of it. pad: scaled to fit into it, in the middle of black (transparent
    black for RGBA). stretch: both sides to their lengths."""

    @classmethod
    def of(cls, resolution: Resolution, fit: Fit = "crop") -> "Frame":
        """A frame of a size as users may say it. Raises ValueError for a text that is none."""
        return cls(Size.of(resolution), fit)

    def shape(self, count: int, channels: int) -> tuple[int, int, int, int]:
        """Of an array of pictures: [N, H, W, C]."""
        return count, *self.size, channels

    def agreement(self, width: int, height: int) -> float:
        """How far a picture has the frame's shape, in (0, 1]: what a crop keeps of it, and what of a padded one isn't
        border; a stretched one is 1 / this wider or narrower."""
        across, down = width * self.size.height, height * self.size.width
        return min(across, down) / max(across, down)


class Geometry(NamedTuple):
    """Resize to `width` x `height`, then cut out the frame at (`left`, `top`); beyond the edges is border."""

    width: int
    height: int
    left: int
    top: int


def fit_geometry(width: int, height: int, frame: Frame) -> Geometry:
    """Where a picture of this size comes to lie.

    A crop is what torchvision's `Resize` and `CenterCrop` do, also where the frame isn't square.
    """
    to_height, to_width = frame.size
    if frame.fit == "stretch":
        return Geometry(to_width, to_height, 0, 0)
    is_narrower = width * to_height <= height * to_width
    if frame.fit == "pad":
        if is_narrower:
            to = max(1, round(to_height * width / height)), to_height
        else:
            to = to_width, max(1, round(to_width * height / width))
        return Geometry(*to, -((to_width - to[0]) // 2), -((to_height - to[1]) // 2))
    if is_narrower:
        resized_width, resized_height = to_width, int(to_width * height / width)
    else:
        resized_width, resized_height = int(to_height * width / height), to_height
    left = round((resized_width - to_width) / 2.0)
    top = round((resized_height - to_height) / 2.0)
    return Geometry(resized_width, resized_height, left, top)


def fit_box(width: int, height: int, frame: Frame) -> tuple[float, float, float, float]:
    """The part (left, top, right, bottom) of a picture, in its own pixels, that `fit` keeps."""
    if frame.fit != "crop":
        return 0.0, 0.0, float(width), float(height)
    resized_width, resized_height, left, top = fit_geometry(width, height, frame)
    scale_x, scale_y = width / resized_width, height / resized_height
    return (
        left * scale_x,
        top * scale_y,
        min((left + frame.size.width) * scale_x, width),
        min((top + frame.size.height) * scale_y, height),
    )


def fit(image: Image.Image, frame: Frame) -> Image.Image:
    """Bring a picture to the frame's size; bilinear, antialiased.

    For a square the pixels of a crop are exactly those of torchvision's `Resize` and `CenterCrop`. Only where the
    aspect ratios differ by a factor over 4 the frame is resampled from its part of the picture alone, as the resized
    whole could be gigantic (8000x20 pixels for 512x512: 204800x512); that changes values by rounding alone.

    Pillow resizes "RGBA" with colours weighted by alpha, so the colour of transparent pixels does not show at edges.
    """
    width, height = image.size
    to_height, to_width = frame.size
    if frame.fit == "crop" and _is_long(width, height, frame.size):
        return image.resize((to_width, to_height), Image.Resampling.BILINEAR, box=fit_box(width, height, frame))
    resized_width, resized_height, left, top = fit_geometry(width, height, frame)
    image = image.resize((resized_width, resized_height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + to_width, top + to_height))  # zeros where the picture is not


def _is_long(width: int, height: int, size: Size) -> bool:
    across, down = width * size.height, height * size.width
    return max(across, down) > CROP_FIRST_ASPECT * min(across, down)
