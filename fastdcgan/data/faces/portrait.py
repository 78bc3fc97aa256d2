"""Draws one cartoon portrait: a front-facing head with big eyes, in the manner of manga.

A portrait is a function of (seed, index), which choose a `Character` at random. The character is drawn from back to
front, a function per feature. All of them work in face coordinates: x to the right, y down, both from -1 to 1 across
the frame, with the eyes near y = 0.2. The layout is the same in all portraits and only its details vary, so that a
small GAN can learn it in a few minutes.
"""

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image

from fastdcgan.data.faces.canvas import Canvas
from fastdcgan.data.faces.character import OPEN_EAR_STYLES, RandomChoices, random_character
from fastdcgan.data.faces.clothes import draw_body
from fastdcgan.data.faces.colours import WHITE, shade
from fastdcgan.data.faces.curves import polyline, shifted
from fastdcgan.data.faces.face import (
    draw_brows,
    draw_cheeks,
    draw_ears,
    draw_features,
    face_outline,
)
from fastdcgan.data.faces.hair_back import HAIR_BACKS
from fastdcgan.data.faces.hair_front import draw_hair_front, fringe_edge
from fastdcgan.data.faces.ornaments import ORNAMENTS

DRAWING_VERSION = 1
"""Raise this with any change to what is drawn: cached sets of portraits are named after it."""


def draw_face(seed: int, index: int, size: int) -> Image.Image:
    """Draw one portrait; the same arguments give the same pixels, whatever was drawn before.

    Args:
        seed: which set of people, from 0 up.
        index: which person of the set, from 0 up.
        size: width and height in pixels, from 8 up.

    Returns:
        An RGB image.

    Raises:
        ValueError: a number is below its range.
    """
    if seed < 0 or index < 0 or size < 8:
        raise ValueError(f"a face needs seed >= 0, index >= 0 and size >= 8, not {seed}, {index}, {size}")
    character = random_character(RandomChoices(seed, index))
    canvas = Canvas(size, character.background)
    if character.disc:
        canvas.disc(0, -0.05, 0.86, 0.86, (*WHITE, 90))
    canvas.pose(character.x, character.y, character.scale, character.tilt)
    HAIR_BACKS[character.style](canvas, character)
    canvas.pose(character.x, character.y, character.scale)
    draw_body(canvas, character)
    canvas.pose(character.x, character.y, character.scale, character.tilt)
    if character.style in OPEN_EAR_STYLES:
        draw_ears(canvas, character)
    face, edge = face_outline(character), fringe_edge(character)
    canvas.shape(face, character.skin, shade(character.skin, 0.6))
    with canvas.clipped(face):
        shadow = np.concatenate([shifted(edge, 0, 0.05), polyline(".7 -.8  -.7 -.8")])
        canvas.fill(shadow, shade(character.skin, 0.22))
        draw_cheeks(canvas, character)
    draw_features(canvas, character)
    draw_hair_front(canvas, character, edge)
    draw_brows(canvas, character)
    ORNAMENTS[character.ornament](canvas, character)
    return canvas.finished()


def file_name(index: int) -> str:
    """What a portrait's file is called: 00000.jpg, 00001.jpg, ..."""
    return f"{index:05d}.jpg"


def save_faces(folder: str | PathLike[str], indices: Iterable[int], seed: int, size: int) -> Iterator[int]:
    """Draw portraits into a folder that exists, and yield how many are done after each.

    Raises:
        ValueError: a number is below its range in `draw_face`.
        OSError: a file can't be written.
    """
    for done, index in enumerate(indices, start=1):
        path = Path(folder, file_name(index))
        draw_face(seed, index, size).save(path, "JPEG", quality=92, subsampling=0, optimize=False, progressive=False)
        yield done
