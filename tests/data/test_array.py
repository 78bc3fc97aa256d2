import numpy as np
import pytest
import torch
from corpus import PHOTOS
from PIL import Image

from fastdcgan.data.array import ArraySource
from fastdcgan.data.picture import fit


def photos(mode: str, width: int = 40, height: int = 30) -> np.ndarray:
    pictures = [np.asarray(photo.convert(mode).resize((width, height))) for photo in PHOTOS]
    return np.stack(pictures).reshape(2, height, width, -1)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pictures_are_fitted_and_converted_once(mode: str, channels: int) -> None:
    pictures = photos(mode)
    source = ArraySource(pictures, resolution=16, channels=channels, description="two photographs")
    assert (len(source), source.description, source.skipped) == (2, "two photographs", ())
    (read,) = source.read([[1, 0, 1]])
    assert (read.dtype, read.shape) == (torch.uint8, (3, 16, 16, channels))
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    for number, picture in zip([1, 0, 1], read, strict=True):
        expected = fit(Image.fromarray(pictures[number].squeeze()).convert(wanted), 16)
        assert np.array_equal(picture.numpy().squeeze(), np.asarray(expected))


def test_pictures_of_the_right_size_are_not_copied_but_what_is_read_is() -> None:
    pictures = photos("RGB", 16, 16).copy()
    source = ArraySource(pictures, resolution=16, channels=3, description="")
    (before,) = source.read([[0]])
    before.zero_()
    assert pictures.any()
    pictures[0] = 9
    assert (next(source.read([[0]])) == 9).all()


def test_batches_are_taken_lazily_and_of_any_length() -> None:
    source = ArraySource(photos("L", 16, 16).copy(), resolution=16, channels=1, description="")
    reading = source.read(iter(lambda: [0, 1], None))
    assert next(reading).shape == next(reading).shape == (2, 16, 16, 1)
    reading.close()
    assert [len(pictures) for pictures in source.read([[0], [], [1, 1, 1]])] == [1, 0, 3]
