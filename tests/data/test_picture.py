import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from corpus import PHOTOS, bad_files, encode, exif, good_files, png, png_16_bits, with_alpha
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from thousands import flipped, lossless_jpeg

from fastdcgan.data.decoding import picture
from fastdcgan.data.decoding.fitting import Frame, fit
from fastdcgan.data.decoding.picture import examine, opened

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")  # pytest undoes our own filter

GOOD, BAD = good_files(), bad_files()
JPEGS = [data for name, data in sorted(GOOD.items()) if data.startswith(b"\xff\xd8") and name != "large.jpg"]
JPEGS.append(lossless_jpeg(50, 40))


def open_picture(data: bytes, channels: int) -> Image.Image:
    with opened(data, channels) as picture:
        return picture


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_every_kind_of_picture_opens_in_the_channels_asked_for(name: str, channels: int) -> None:
    picture = open_picture(GOOD[name], channels)
    assert picture.mode == {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    examined = examine(GOOD[name])
    assert picture.size == (examined.width, examined.height)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_file_has_a_short_reason(name: str) -> None:
    data, reason = BAD[name]
    for attempt in (lambda: open_picture(data, 3), lambda: examine(data)):
        with pytest.raises(ValueError, match=reason) as raised:
            attempt()
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 80


def test_a_decompression_bomb_is_refused_even_without_pillows_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(Image.core, "new", lambda *_: pytest.fail("memory was asked for"))
    with pytest.raises(ValueError, match="60000x60000 pixels is more than the limit"):
        open_picture(BAD["bomb.png"][0], 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int) -> None:
    data = encode(PHOTOS[0].resize((40, 30)), "PNG", exif=exif(orientation))
    expected = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    assert np.array_equal(pixels(open_picture(data, 3)), pixels(expected))
    assert examine(data).plain == (orientation == 1)
    assert examine(data)[:2] == expected.size


def test_a_picture_with_damaged_exif_is_used() -> None:
    data = encode(PHOTOS[0].resize((40, 30)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(range(200)))
    assert open_picture(data, 3).size == (40, 30)


def test_transparency_is_composited_over_white_or_kept() -> None:
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    half = Image.new("RGBA", (4, 4), (0, 0, 0, 128))
    assert pixels(open_picture(encode(clear, "PNG"), 3)).min() == 255
    assert pixels(open_picture(encode(clear, "PNG"), 1)).min() == 255
    assert abs(pixels(open_picture(encode(half, "PNG"), 3)) - 127).max() <= 1
    assert np.array_equal(pixels(open_picture(encode(clear, "PNG"), 4)), pixels(clear))
    grey = with_alpha(PHOTOS[0].convert("L").resize((64, 8)))
    over_white = open_picture(encode(grey, "PNG"), 1)
    levels, alpha = pixels(grey)[..., 0], pixels(grey)[..., 1] / 255
    assert abs(pixels(over_white) - (levels * alpha + 255 * (1 - alpha))).max() <= 1
    palette = PHOTOS[0].resize((64, 8)).quantize(4)
    seen = pixels(open_picture(encode(palette, "PNG", transparency=bytes([0, 255, 255, 255])), 3))
    assert (seen[np.asarray(palette) == 0] == 255).all()


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (640, 64)])  # the last is cropped and resized in one step
def test_the_hidden_colour_of_transparent_pixels_does_not_fringe_a_resized_edge(size: tuple[int, int]) -> None:
    sprite = Image.new("RGBA", size, (255, 0, 255, 0))
    sprite.paste((0, 200, 0, 255), (0, 0, size[0] // 2 + 1, size[1]))  # the edge falls within a resized pixel
    red, green, blue, alpha = pixels(fit(open_picture(encode(sprite, "PNG"), 4), Frame.of(16))).reshape(-1, 4).T
    edge = (alpha > 16) & (alpha < 255)  # of fainter ones rounding alone shifts the colour
    assert edge.any()
    assert alpha.max() == 255
    assert not red.any()
    assert not blue.any()
    assert abs(green[edge] - 200).max() <= 8


def test_without_a_resize_or_transparency_every_bit_of_four_channels_is_kept() -> None:
    pixels_HWC = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
    data = encode(Image.fromarray(pixels_HWC), "PNG")
    assert np.array_equal(picture.open_fitted(data, 4, Frame.of(16)), pixels_HWC)

    opaque = encode(Image.fromarray(pixels_HWC[..., :3]), "PNG")
    four, three = (picture.open_fitted(opaque, channels, Frame.of(8)) for channels in (4, 3))
    assert np.array_equal(four.convert("RGB"), three)


def test_16_bit_levels_are_scaled_not_clipped() -> None:
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(pixels(open_picture(png_16_bits(levels), 1)), np.rint(levels / 257).astype(int))
    rgb = np.stack([levels, levels.T, 65535 - levels], axis=-1)
    assert abs(pixels(open_picture(png_16_bits(rgb), 3)) - rgb / 257).max() <= 1
    transparent = open_picture(png_16_bits(levels, (b"tRNS", b"\x12\x34")), 4)
    assert np.array_equal(pixels(transparent)[..., 3] == 0, levels == 0x1234)


def test_cmyk_comes_out_in_the_right_colours() -> None:
    photo = PHOTOS[0].resize((97, 66))
    assert abs(pixels(open_picture(encode(photo.convert("CMYK"), "JPEG", quality=98), 3)) - pixels(photo)).mean() < 2


def test_animated_files_show_their_first_frame() -> None:
    for form, options in (("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        data = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert open_picture(data, 3).getpixel((3, 3)) == (255, 0, 0)


def test_only_files_that_decoders_agree_on_are_plain() -> None:
    plain = {name for name in GOOD if examine(GOOD[name]).plain}
    assert {"large.jpg", "progressive.jpg", "grey.jpg", "rgb.png", "grey.png", "rgb.bmp", "lossy.webp"} <= plain
    assert {"several.jpg", "thumbnail and maker.jpg", "trailer.jpg", "bad orientation.jpg", "doubtful tag.jpg"} <= plain
    odd = ["cmyk", "transparent", "rgba", "la.", "16", "two", "turned", "moving", "gif", "no end", "xmp"]
    odd += ["alpha", "gamma", "profile.webp"]
    assert not {name for name in plain if any(word in name for word in odd)}
    assert "orientation1.jpg" in plain
    assert not {f"orientation{o}.jpg" for o in range(2, 9)} & plain


def test_pillows_warnings_are_not_printed(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(GOOD["palette transparent.png"])
    (tmp_path / "b.png").write_bytes(png(9500, 9500, 1, 0, bytes(1189 * 9500)))  # Pillow: could be a bomb
    exif_damage = encode(PHOTOS[0].resize((9, 9)), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0")
    (tmp_path / "c.png").write_bytes(exif_damage)
    code = (
        "import sys; from pathlib import Path; from fastdcgan.data.decoding.picture import open_fitted as o; "
        "from fastdcgan.data.decoding.fitting import Frame; "
        "[o(Path(p).read_bytes(), 3, Frame.of(64)) for p in sys.argv[1:]]"
    )
    command = [sys.executable, "-W", "always", "-c", code, *map(str, sorted(tmp_path.iterdir()))]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(set(GOOD) - {"large.jpg"})))
@settings(max_examples=150, deadline=None)
def test_damage_of_any_kind_gives_a_picture_or_a_reason(seed: int, name: str) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(GOOD[name])
    for _ in range(random.integers(1, 8)):
        data[random.integers(0, min(len(data), 400) if random.random() < 0.6 else len(data))] = random.integers(256)
    if random.random() < 0.3:
        del data[random.integers(0, len(data)) :]
    try:
        examine(bytes(data))
    except ValueError as error:
        assert 0 < len(str(error)) < 80
        with pytest.raises(ValueError, match=re.escape(str(error))):
            open_picture(bytes(data), int(random.choice([1, 3, 4])))
    else:
        open_picture(bytes(data), int(random.choice([1, 3, 4])))  # what was accepted doesn't fail later


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=300, deadline=None)
def test_the_check_refuses_what_decoding_in_full_refuses(seed: int) -> None:
    random = np.random.default_rng(seed)
    whole = JPEGS[random.integers(len(JPEGS))]
    data = flipped(whole, random) if random.random() < 0.7 else whole
    if random.random() < 0.5:
        data = data[: random.integers(2, len(data))]

    def outcome(attempt: Callable[[], object]) -> str:
        try:
            attempt()
        except ValueError as error:
            return str(error)
        return "accepted"

    assert outcome(lambda: examine(data)) == outcome(lambda: open_picture(data, 3))


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "LARGE", 5000)
    large, small = GOOD["rgba.png"], encode(PHOTOS[0].resize((60, 60)), "PNG")
    held: list[int] = []
    most: dict[int, int] = {}
    real = picture.fit

    def watched(image: Image.Image, frame: Frame) -> Image.Image:
        pixels = image.width * image.height
        held.append(pixels)
        time.sleep(0.02)
        most[pixels] = max(most.get(pixels, 0), held.count(pixels))
        held.remove(pixels)
        return real(image, frame)

    monkeypatch.setattr(picture, "fit", watched)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda data: picture.open_fitted(data, 3, Frame.of(32)), [large, small] * 8))
    assert most[97 * 66] == 1
    assert most[60 * 60] > 1
