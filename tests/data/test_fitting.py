import numpy as np
import pytest
from corpus import PHOTOS, with_alpha
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as F

from fastdcgan.data.decoding.fitting import Fit, Frame, fit, fit_box, fit_geometry
from fastdcgan.gan.architecture import Size

FRAMES = st.tuples(st.integers(1, 2048), st.integers(1, 2048))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


SIZES = [(178, 218), (218, 178), (640, 427), (427, 640), (64, 64), (65, 64), (64, 65), (33, 64), (20, 31), (63, 250)]


@pytest.mark.parametrize("resolution", [28, 32, 64, 129])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("size", SIZES)
def test_fit_is_torchvisions_resize_and_crop_bit_for_bit(size: tuple[int, int], mode: str, resolution: int) -> None:
    picture = (with_alpha(PHOTOS[1]) if mode == "RGBA" else PHOTOS[1].convert(mode)).resize(size)
    expected = F.center_crop(F.resize(picture, [resolution], antialias=True), [resolution, resolution])
    fitted = fit(picture, Frame.of(resolution))
    assert fitted.size == (resolution, resolution)
    assert np.array_equal(pixels(fitted), pixels(expected))


@pytest.mark.parametrize("size", [(400, 50), (50, 401), (300, 7), (9, 640)])
def test_long_pictures_differ_from_torchvision_by_rounding_alone(size: tuple[int, int]) -> None:
    picture = PHOTOS[0].resize(size)
    expected = F.center_crop(F.resize(picture, [64], antialias=True), [64, 64])
    difference = abs(pixels(fit(picture, Frame.of(64))) - pixels(expected))
    assert difference.max() <= 1
    assert difference.mean() < 0.2


@pytest.mark.parametrize("size", [(8000, 20), (20, 8000), (50000, 1), (1, 50000)])
def test_long_pictures_take_no_more_memory_than_their_square(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Image.Image.resize

    def bounded(self: Image.Image, size: tuple[int, int], *args: object, **options: object) -> Image.Image:
        assert size == (512, 512)
        return real(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", bounded)
    assert fit(Image.new("RGB", size, (1, 2, 3)), Frame.of(512)).getpixel((511, 511)) == (1, 2, 3)


@given(width=st.integers(1, 70000), height=st.integers(1, 70000), frame=FRAMES)
def test_what_is_cropped_lies_within_the_picture(width: int, height: int, frame: tuple[int, int]) -> None:
    high, wide = frame
    cropped = Frame(Size(high, wide))
    resized_width, resized_height, left, top = fit_geometry(width, height, cropped)
    assert resized_width == wide or resized_height == high
    assert 0 <= left <= resized_width - wide
    assert 0 <= top <= resized_height - high
    box = fit_box(width, height, cropped)
    assert 0 <= box[0] < box[2] <= width
    assert 0 <= box[1] < box[3] <= height
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    assert cropped.agreement(width, height) == pytest.approx(kept, rel=1 / min(high, wide))


@given(width=st.integers(1, 70000), height=st.integers(1, 70000), frame=FRAMES)
def test_a_padded_picture_is_all_there_in_its_shape_and_in_the_middle(
    width: int, height: int, frame: tuple[int, int]
) -> None:
    high, wide = frame
    resized_width, resized_height, left, top = fit_geometry(width, height, Frame(Size(high, wide), "pad"))
    assert resized_width == wide or resized_height == high
    assert 1 <= resized_width <= wide and 1 <= resized_height <= high
    assert abs(wide + 2 * left - resized_width) <= 1 and abs(high + 2 * top - resized_height) <= 1
    scale = min(wide / width, high / height)
    assert abs(resized_width - max(1, width * scale)) <= 0.5 and abs(resized_height - max(1, height * scale)) <= 0.5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("frame", [(64, 128), (192, 96), (256, 64), (48, 48)])
def test_a_crop_to_a_rectangle_is_torchvisions(size: tuple[int, int], frame: tuple[int, int]) -> None:
    picture, (high, wide) = PHOTOS[1].resize(size), frame
    width, height, _, _ = fit_geometry(*size, Frame(Size(high, wide)))
    expected = F.center_crop(F.resize(picture, [height, width], antialias=True), [high, wide])
    fitted = fit(picture, Frame(Size(high, wide)))
    assert fitted.size == (wide, high)
    assert abs(pixels(fitted) - pixels(expected)).max() <= (1 if is_long(size, frame) else 0)


def is_long(size: tuple[int, int], frame: tuple[int, int]) -> bool:
    ratio = size[0] * frame[0] / (size[1] * frame[1])
    return max(ratio, 1 / ratio) > 4


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_borders_are_black_or_transparent_and_the_picture_between_them_whole(mode: str) -> None:
    picture = Image.new("RGBA", (60, 20), (255, 255, 255, 255)).convert(mode)
    wide = pixels(fit(picture, Frame.of(30, "pad"))).reshape(30, 30, -1)
    assert wide[10:20].min() == 255
    assert not wide[:10].any() and not wide[20:].any()
    tall = pixels(fit(picture.rotate(90, expand=True), Frame.of("40x40", "pad"))).reshape(40, 40, -1)
    assert tall[:, 13:26].min() == 255 and not tall[:, :13].any() and not tall[:, 26:].any()


def test_a_stretched_picture_keeps_its_corners() -> None:
    picture = Image.new("L", (40, 20))
    picture.paste(255, (0, 0, 20, 20))
    stretched = pixels(fit(picture, Frame.of("80x20", "stretch")))
    assert stretched.shape == (80, 20)
    assert stretched[:, :9].min() == 255 and stretched[:, 11:].max() == 0


@pytest.mark.parametrize("fit_name", ["crop", "pad", "stretch"])
def test_a_picture_of_the_right_shape_is_the_same_in_every_frame(fit_name: Fit) -> None:
    picture = PHOTOS[0].resize((128, 256))
    expected = fit(picture, Frame.of("128x64"))
    assert np.array_equal(pixels(fit(picture, Frame.of("128x64", fit_name))), pixels(expected))
    assert Frame.of("128x64", fit_name).agreement(128, 256) == 1
