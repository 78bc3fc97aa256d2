"""Draws one cartoon portrait: a front-facing head with big eyes, in the manner of manga.

A portrait is a function of (seed, index). `_design` draws lots for who is shown (a `Character`); the functions
below it draw that character from back to front, one function per feature. All of them work in face
coordinates: x to the right, y down, both from -1 to 1 across the frame, with the eyes near y = 0.2. The layout
is the same in all portraits and only its details vary: that is what a small GAN can learn in a few minutes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

DRAWING_VERSION = 1
"""Raise this with any change to what is drawn: cached sets of portraits are named after it."""

Points = npt.NDArray[np.float64]
"""Face coordinates, [N, 2]."""
Colour = tuple[int, ...]
"""RGB or RGBA, each in 0..255."""
T = TypeVar("T")

SUPERSAMPLING = 3
STEPS_PER_CURVE = 7
LINE = 0.016

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 28, 40)

# --------------------------------------------------------------------------------------------------- palettes


def _palette(colours: str) -> tuple[Colour, ...]:
    return tuple(tuple(bytes.fromhex(colour)) for colour in colours.split())


SKINS = _palette("ffe9d9 fdddc7 f6d0b2 eabe9a dcaa82 c69068 aa7450 8a5a3e 6a4430")
HAIRS = _palette(
    "2c2632 2c2632 422e2a 623e2c 8e5834 c68a46 f0cc6c ce542c b02c3a f088aa 885cbe 4264c4 54b0d6 36a08c ced4e4 fa9c74"
)
IRISES = _palette("7a4626 543428 b07024 28804e 226ac4 3ca0ce 8046ba c4304c 188a8c 5c647a")
CLOTHES = _palette("2c3e6e c4363e 368064 f6c448 704e96 f0f0f4 3a3a44 ec7c54 589cce ee96b2")
ACCENTS = _palette("e2364a fafafc 3c78d8 fabe34 2ea078 f480aa")
BACKGROUND_TOPS = _palette("acdafa ffd6c4 ceeccc e2d0f8 ffe89e fac4d6 a8e2de 7896ce f6aa82 d6dae4")
BACKGROUND_BOTTOMS = _palette("e8f6ff fff3dc f4fce4 faeeff fffade ffecf0 e4faf4 ced8f6 ffe2b4 f6f7fa")
BACKGROUNDS = tuple(zip(BACKGROUND_TOPS, BACKGROUND_BOTTOMS, strict=True))


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    (a, b, c), (x, y, z) = first, second
    return (round(a + (x - a) * share), round(b + (y - b) * share), round(c + (z - c) * share))


@lru_cache(1024)
def _shade(colour: Colour, strength: float) -> Colour:
    """The colour in shadow: darker and a little towards violet, as cel painters do it."""
    return _mix(colour, (46, 16, 56), strength)


# ----------------------------------------------------------------------------------------------------- curves


def _points(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs, dtype=np.float64)


_T = np.arange(STEPS_PER_CURVE) / STEPS_PER_CURVE
_CATMULL_ROM = 0.5 * np.stack(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3], axis=1
)
_BOW = (4 * _T * (1 - _T))[None, :, None]
_ANGLES = np.linspace(0, 2 * np.pi, 36, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def _smooth(points: Points, *, closed: bool = False) -> Points:
    """A smooth curve through the points."""
    curve: Points = (_CATMULL_ROM @ points[_knots(len(points), closed)]).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


@lru_cache(256)
def _path(corners: str) -> Points:
    """Corners written as in an SVG path: "x y  x y  ..."."""
    path = np.array(corners.split(), dtype=np.float64).reshape(-1, 2)
    path.setflags(write=False)
    return path


@lru_cache(256)
def _curve(corners: str, *, closed: bool = False) -> Points:
    """A smooth curve through corners that are the same in every portrait."""
    curve = _smooth(_path(corners), closed=closed)
    curve.setflags(write=False)
    return curve


@lru_cache(64)
def _knots(count: int, closed: bool) -> npt.NDArray[np.intp]:
    """For each segment of the curve the four points that shape it."""
    first = np.arange(-1, count - 1 if closed else count - 2)[:, None] + np.arange(4)
    return first % count if closed else np.clip(first, 0, count - 1)


def _bowed(points: Points, bows: float | npt.NDArray[np.float64]) -> Points:
    """The polyline with every segment bent into an arc that keeps its ends: locks of hair, spikes, scallops.

    A bow is the arc's height as a share of the segment's length, positive to the left of its direction.
    """
    starts, along = points[:-1], np.diff(points, axis=0)
    left = np.stack([along[:, 1], -along[:, 0]], axis=1) * np.reshape(bows, (-1, 1))
    arcs = starts[:, None] + along[:, None] * _T[None, :, None] + left[:, None] * _BOW
    return np.concatenate([arcs.reshape(-1, 2), points[-1:]])


def _ellipse(x: float, y: float, width: float, height: float) -> Points:
    """Half-width and half-height around (x, y)."""
    return _moved(_CIRCLE * (width, height), x, y)


def _moved(points: Points, x: float, y: float) -> Points:
    moved: Points = np.add(points, (x, y))
    return moved


def _flipped(points: Points, side: float = -1) -> Points:
    """Mirrored left to right where side is -1, unchanged where it is 1; between and beyond, also stretched."""
    return points * (side, 1.0)


def _both_sides(right: Points) -> Points:
    """The half from the crown down the right, joined to its mirror image: from bottom left to bottom right."""
    return np.concatenate([_flipped(right[:0:-1]), right])


# ----------------------------------------------------------------------------------------------------- canvas


class Canvas:
    """A picture some times larger than wanted, drawn on in face coordinates and scaled down at the end."""

    def __init__(self, size: int, background: tuple[Colour, Colour]):
        self.pixels = size * SUPERSAMPLING
        self._use(_gradient(*background, self.pixels).copy())
        self.pose()

    def _use(self, image: Image.Image) -> None:
        # Blending costs about twice as much as plain drawing, so only what is translucent pays for it.
        self.image, self._solid, self._blended = image, ImageDraw.Draw(image), ImageDraw.Draw(image, "RGBA")

    def pose(self, x: float = 0, y: float = 0, scale: float = 1, tilt: float = 0) -> None:
        """Place what is drawn next: moved by (x, y), scaled, and tilted by so many radians."""
        half = self.pixels / 2
        c, s = math.cos(tilt) * scale * half, math.sin(tilt) * scale * half
        self._axes = ((c, s), (-s, c))
        self._origin = (half * (1 + x), half * (1 + y))
        self._matrix, self._offset = np.array(self._axes), np.array(self._origin)

    def _place(self, points: Points) -> list[float]:
        placed: list[float] = (points @ self._matrix + self._offset).ravel().tolist()
        return placed

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill the polygon."""
        draw = self._blended if len(colour) == 4 else self._solid
        draw.polygon(self._place(points), fill=colour)

    def disc(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """Fill an upright ellipse, given by its middle and its half-axes."""
        (xx, xy), (yx, yy) = self._axes
        x, y = x * xx + y * yx + self._origin[0], x * xy + y * yy + self._origin[1]
        width, height = width * xx, height * xx
        draw = self._blended if len(colour) == 4 else self._solid
        draw.ellipse((x - width, y - height, x + width, y + height), fill=colour)

    def line(self, points: Points, colour: Colour, width: float = LINE) -> None:
        """Draw an open line."""
        self._solid.line(self._place(points), fill=colour, width=max(1, round(width * self.pixels / 2)))

    def shape(self, points: Points, colour: Colour, outline: Colour, width: float = LINE) -> None:
        """Fill the polygon and draw its outline."""
        placed = self._place(points)
        self._solid.polygon(placed, fill=colour)
        self._solid.line(placed + placed[:4], fill=outline, width=max(1, round(width * self.pixels / 2)))

    @contextmanager
    def clipped(self, *outlines: Points) -> Iterator[None]:
        """What is drawn inside this block shows only within the outlines."""
        mask = Image.new("L", self.image.size)
        for outline in outlines:
            ImageDraw.Draw(mask).polygon(self._place(outline), fill=255)
        below = self.image
        self._use(below.copy())
        yield
        box = mask.getbbox()
        if box:
            below.paste(self.image.crop(box), box, mask.crop(box))
        self._use(below)

    def finished(self) -> Image.Image:
        """The picture at its own size."""
        return self.image.reduce(SUPERSAMPLING)


@lru_cache(len(BACKGROUNDS))
def _gradient(top: Colour, bottom: Colour, pixels: int) -> Image.Image:
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), bottom)
    return column.resize((pixels, pixels), Image.Resampling.BILINEAR)


# -------------------------------------------------------------------------------------------------- character


class _Lots:
    """Random choices from one stream of numbers in [0, 1), the only thing asked of the generator."""

    def __init__(self, seed: int, index: int):
        self._numbers = iter(np.random.default_rng((seed, index)).random(160).tolist())

    def between(self, low: float, high: float) -> float:
        return float(low + (high - low) * next(self._numbers))

    def chance(self, share: float) -> bool:
        return bool(next(self._numbers) < share)

    def one(self, options: Sequence[T]) -> T:
        return options[int(next(self._numbers) * len(options))]


@dataclass(frozen=True, kw_only=True)
class Character:
    """Who is shown: every choice that the drawing functions need."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    accent: Colour
    background: tuple[Colour, Colour]
    disc: bool
    style: str
    fringe: str
    side: int
    side_lock: float
    locks: tuple[float, ...]
    """Small deviations in [-1, 1] for what should not look ruled: tips, bumps, the swing of a tail."""
    stray: bool
    jaw: float
    chin: float
    eye_x: float
    eye_y: float
    eye_width: float
    eye_height: float
    slant: float
    gaze: float
    brow: str
    mouth: str
    blush: float
    freckles: bool
    glasses: str
    ornament: str
    outfit: str
    x: float
    y: float
    scale: float
    tilt: float


OPEN_EARS = ("short", "spiky", "bun", "ponytail", "buns", "curls")
"""Styles worn off the ears."""
BUSHY = ("spiky", "curls")
"""Styles that stand off the head, so that the head's own outline is hidden."""
FOREHEADS = {"curls": ("scalloped", "swept_back")} | dict.fromkeys(
    ("short", "spiky", "bun", "ponytail"),
    ("tousled", "straight", "centre_part", "side_part", "centre_lock", "swept_back"),
)
"""The fringes that go with a style; the others have any but the swept back."""


def _design(lots: _Lots) -> Character:
    style = lots.one(tuple(HAIR_BACKS))
    fringes = FOREHEADS.get(style, ("tousled", "straight", "centre_part", "side_part", "centre_lock"))
    return Character(
        skin=_mix(lots.one(SKINS), lots.one(SKINS), lots.between(0, 0.25)),
        hair=_mix(lots.one(HAIRS), lots.one(HAIRS), lots.between(0, 0.1)),
        iris=lots.one(IRISES),
        clothes=lots.one(CLOTHES),
        accent=lots.one(ACCENTS),
        background=lots.one(BACKGROUNDS),
        disc=lots.chance(0.35),
        style=style,
        fringe=lots.one(fringes),
        side=lots.one((-1, 1)),
        side_lock=lots.between(0.12, 0.2) if style in OPEN_EARS else lots.between(0.42, 0.72),
        locks=tuple(lots.between(-1, 1) for _ in range(24)),
        stray=lots.chance(0.2),
        jaw=lots.between(0.31, 0.37),
        chin=lots.between(0.66, 0.72),
        eye_x=lots.between(0.24, 0.26),
        eye_y=lots.between(0.19, 0.22),
        eye_width=lots.between(0.155, 0.178),
        eye_height=lots.between(0.165, 0.205),
        slant=lots.between(-0.035, 0.035),
        gaze=lots.one((-0.03, 0.0, 0.0, 0.03)),
        brow=lots.one(("soft", "soft", "raised", "stern", "worried")),
        mouth=lots.one(("smile", "smile", "open", "open", "neutral", "small", "grin", "cat")),
        blush=lots.one((0.0, 0.35, 0.6, 0.8)),
        freckles=lots.chance(0.1),
        glasses=lots.one(("none",) * 8 + ("round", "square")),
        ornament=lots.one(("none", "none", "none", "band", "clips", "bow", "flower")),
        outfit=lots.one(("tee", "shirt", "sailor", "turtleneck", "hoodie")),
        x=lots.between(-0.035, 0.035),
        y=lots.between(-0.03, 0.03),
        scale=lots.between(0.96, 1.04),
        tilt=lots.between(-0.07, 0.07),
    )


# ------------------------------------------------------------------------------------------------ hair behind


def _short_back(canvas: Canvas, who: Character) -> None:
    outline = _both_sides(_path("0 -.8  .36 -.73  .58 -.45  .64 -.05  .6 .25  .44 .5"))
    canvas.shape(_smooth(outline, closed=True), *_hair_tones(who))


def _bob_back(canvas: Canvas, who: Character) -> None:
    outline = _smooth(_both_sides(_path("0 -.8  .38 -.73  .62 -.42  .7 .05  .72 .42  .6 .64")))
    canvas.shape(np.concatenate([outline, _path(".3 .6  -.3 .6")]), *_hair_tones(who))
    canvas.disc(0, 0.36, 0.53, 0.28, _shade(who.hair, 0.35))


def _long_back(canvas: Canvas, who: Character) -> None:
    outline = _smooth(_both_sides(_path("0 -.8  .38 -.73  .61 -.42  .68 .1  .72 .6  .8 1.2")))
    canvas.shape(outline * (1 + 0.05 * who.locks[20], 1), *_hair_tones(who))
    canvas.disc(0, 0.66, 0.54, 0.62, _shade(who.hair, 0.35))


def _wavy_back(canvas: Canvas, who: Character) -> None:
    right = _path("0 -.81  .4 -.74  .64 -.42  .66 -.12  .76 .12  .7 .34  .82 .58  .74 .8")
    outline = np.concatenate([_smooth(_both_sides(right)), _path(".86 1.2  -.86 1.2")])
    canvas.shape(outline * (1 + 0.05 * who.locks[20], 1), *_hair_tones(who))
    canvas.disc(0, 0.66, 0.54, 0.62, _shade(who.hair, 0.35))


def _twin_tails_back(canvas: Canvas, who: Character) -> None:
    outer = _curve(".5 -.5  .74 -.62  .92 -.3  .97 .2  .8 .84")
    inner = _curve(".8 .84  .78 .5  .7 .2  .66 -.1  .5 -.3")
    strand = _curve(".68 -.42  .8 -.1  .84 .2  .82 .55")
    hair, line = _hair_tones(who)
    for side in (-1, 1):
        swing = side * (1 + 0.04 * who.locks[20])
        canvas.shape(_flipped(np.concatenate([outer, inner]), swing), hair, line)
        canvas.line(_flipped(strand, swing), line, 0.012)
    _short_back(canvas, who)
    for side in (-1, 1):
        canvas.shape(_ellipse(0.59 * side, -0.46, 0.07, 0.1), who.accent, _shade(who.accent, 0.6))


def _spiky_back(canvas: Canvas, who: Character) -> None:
    spikes = 9
    angles = np.linspace(math.radians(155), math.radians(385), 2 * spikes + 1)
    radii = np.full(len(angles), 0.66)
    radii[1::2] = 0.87 + 0.08 * np.array(who.locks[:spikes])
    nodes = np.stack([np.cos(angles) * radii, np.sin(angles) * radii - 0.06], axis=1)
    outline = np.concatenate([_bowed(nodes, 0.10), _path(".4 .52  -.4 .52")])
    canvas.shape(outline, *_hair_tones(who))


def _bun_back(canvas: Canvas, who: Character) -> None:
    canvas.shape(_ellipse(0, -0.81, 0.25, 0.19), *_hair_tones(who))
    canvas.line(_curve("-.14 -.86  0 -.94  .14 -.86"), _hair_tones(who)[1], 0.012)
    _short_back(canvas, who)
    canvas.line(_curve("-.15 -.775  0 -.795  .15 -.775"), who.accent, 0.05)


def _buns_back(canvas: Canvas, who: Character) -> None:
    for side in (-1, 1):
        canvas.shape(_ellipse(0.50 * side, -0.68, 0.20, 0.19), *_hair_tones(who))
        curl = _curve(".42 -.68  .5 -.78  .59 -.7  .53 -.62")
        canvas.line(_flipped(curl, side), _hair_tones(who)[1], 0.012)
    _short_back(canvas, who)


def _ponytail_back(canvas: Canvas, who: Character) -> None:
    outer = _curve(".24 -.7  .5 -.93  .84 -.7  .95 -.15  .8 .62")
    inner = _curve(".8 .62  .74 .25  .72 -.1  .6 -.4  .4 -.55")
    strand = _curve(".52 -.7  .72 -.52  .83 -.12  .81 .25")
    hair, line = _hair_tones(who)
    swing = who.side * (1 + 0.05 * who.locks[20])
    canvas.shape(_flipped(np.concatenate([outer, inner]), swing), hair, line)
    canvas.line(_flipped(strand, swing), line, 0.012)
    _short_back(canvas, who)
    canvas.shape(_ellipse(0.4 * who.side, -0.7, 0.09, 0.07), who.accent, _shade(who.accent, 0.6))


def _curls_back(canvas: Canvas, who: Character) -> None:
    bumps = 15
    angles = np.linspace(math.radians(140), math.radians(400), bumps + 1)
    radii = 0.76 + 0.02 * np.array(who.locks[: bumps + 1])
    nodes = np.stack([np.cos(angles) * radii * 0.98, np.sin(angles) * radii - 0.09], axis=1)
    canvas.shape(_bowed(nodes, 0.32), *_hair_tones(who))


def _hair_tones(who: Character) -> tuple[Colour, Colour]:
    """Hair and its outline."""
    return who.hair, _shade(who.hair, 0.62)


HAIR_BACKS: dict[str, Callable[[Canvas, Character], None]] = {
    "short": _short_back,
    "bob": _bob_back,
    "long": _long_back,
    "wavy": _wavy_back,
    "twin_tails": _twin_tails_back,
    "spiky": _spiky_back,
    "bun": _bun_back,
    "buns": _buns_back,
    "ponytail": _ponytail_back,
    "curls": _curls_back,
}

# --------------------------------------------------------------------------------------------------- clothing


def _body(canvas: Canvas, who: Character) -> None:
    line = _shade(who.skin, 0.55)
    neck = _path("-.15 .45  .15 .45  .16 .84  .34 .92  .34 1.2  -.34 1.2  -.34 .92  -.16 .84")
    canvas.shape(neck, who.skin, line)
    shadow = _curve("-.15 .62  -.14 .76  0 .84  .14 .76  .15 .62")
    canvas.fill(shadow, _shade(who.skin, 0.25))
    OUTFITS[who.outfit](canvas, who)


def _shoulders(canvas: Canvas, who: Character, neckline: Points) -> None:
    arm = _curve(".22 .84  .45 .89  .68 .96  .8 1.2")
    outline = np.concatenate([_flipped(arm[::-1]), neckline, arm])
    canvas.shape(outline, who.clothes, _shade(who.clothes, 0.6))


def _tee(canvas: Canvas, who: Character) -> None:
    neckline = _curve("-.22 .84  -.13 .93  0 .96  .13 .93  .22 .84")
    _shoulders(canvas, who, neckline)
    canvas.line(neckline, _mix(who.clothes, who.accent, 0.7), 0.035)


def _shirt(canvas: Canvas, who: Character) -> None:
    _shoulders(canvas, who, _path("0 1.05"))
    for side in (-1, 1):
        collar = _path(".17 .79  .03 .99  .2 1.06  .3 .88")
        canvas.shape(_flipped(collar, side), WHITE, (120, 120, 140))
    canvas.shape(_path("-.05 .94  .05 .94  .08 1.2  -.08 1.2"), who.accent, _shade(who.accent, 0.6))


def _sailor(canvas: Canvas, who: Character) -> None:
    _shoulders(canvas, who, _path("0 1.1"))
    for side in (-1, 1):
        collar = _path(".18 .8  0 1.06  .34 1.2  .5 .9")
        canvas.shape(_flipped(collar, side), WHITE, (120, 120, 140))
        canvas.line(_flipped(_path(".27 .84  .1 1.08"), side), who.clothes, 0.03)
    canvas.shape(_ellipse(0, 1.0, 0.09, 0.07), who.accent, _shade(who.accent, 0.6))


def _turtleneck(canvas: Canvas, who: Character) -> None:
    _shoulders(canvas, who, _path("0 .84"))
    roll = _curve("-.19 .76  -.21 .9  0 .95  .21 .9  .19 .76  0 .83", closed=True)
    canvas.shape(roll, _mix(who.clothes, WHITE, 0.15), _shade(who.clothes, 0.6))


def _hoodie(canvas: Canvas, who: Character) -> None:
    _shoulders(canvas, who, _path("0 1.05"))
    for side in (-1, 1):
        hood = _curve(".2 .74  .4 .8  .34 .96  .04 1.1  .08 .94", closed=True)
        canvas.shape(_flipped(hood, side), _mix(who.clothes, WHITE, 0.15), _shade(who.clothes, 0.6))
        canvas.line(_flipped(_path(".14 .97  .13 1.1"), side), WHITE, 0.025)


OUTFITS: dict[str, Callable[[Canvas, Character], None]] = {
    "tee": _tee,
    "shirt": _shirt,
    "sailor": _sailor,
    "turtleneck": _turtleneck,
    "hoodie": _hoodie,
}

# ------------------------------------------------------------------------------------------------------- face


def _ears(canvas: Canvas, who: Character) -> None:
    for side in (-1, 1):
        ear = _curve(".46 .1  .56 .08  .58 .22  .52 .36  .44 .36", closed=True)
        canvas.shape(_flipped(ear, side), who.skin, _shade(who.skin, 0.55))
        inner = _curve(".5 .16  .54 .18  .51 .28")
        canvas.line(_flipped(inner, side), _shade(who.skin, 0.35), 0.014)


def _face_outline(who: Character) -> Points:
    cheek, jaw = _path("0 -.6  .36 -.46  .49 -.1  .495 .16  .46 .36"), _points((who.jaw, who.chin - 0.15))
    right = np.concatenate([cheek, jaw, _points((0.12, who.chin - 0.012))])
    return _smooth(_both_sides(right), closed=True)


def _cheeks(canvas: Canvas, who: Character) -> None:
    rose = _mix(who.skin, (240, 70, 90), 0.45)
    for side in (-1, 1):
        x, y = 0.33 * side, 0.43
        if who.blush:
            for size, share in ((1.0, 0.4), (0.75, 0.5), (0.5, 0.6)):
                canvas.disc(x, y, 0.105 * size, 0.058 * size, (*rose, round(255 * share * who.blush)))
        if who.freckles:
            for dx, dy in ((-0.06, 0.0), (0.0, -0.025), (0.05, 0.01), (-0.01, 0.035)):
                canvas.disc(x + dx, y - 0.02 + dy, 0.012, 0.012, _shade(who.skin, 0.3))


def _nose(canvas: Canvas, who: Character) -> None:
    canvas.fill(_path("0 .36  .035 .415  -.02 .42"), _shade(who.skin, 0.32))


def _mouth(canvas: Canvas, who: Character) -> None:
    ink = _shade(_mix(who.skin, (150, 30, 40), 0.35), 0.6)
    inside, tongue = (134, 32, 44), (236, 112, 116)
    if who.mouth == "smile":
        canvas.line(_curve("-.11 .51  -.05 .545  .05 .545  .11 .51"), ink, 0.022)
    elif who.mouth == "open":
        canvas.shape(_curve("-.1 .5  -.07 .58  0 .61  .07 .58  .1 .5"), inside, ink, 0.018)
        canvas.fill(_curve("-.055 .578  0 .555  .055 .578  0 .6", closed=True), tongue)
    elif who.mouth == "grin":
        canvas.shape(_curve("-.11 .505  -.07 .565  .07 .565  .11 .505"), WHITE, ink, 0.018)
    elif who.mouth == "cat":
        canvas.line(_curve("-.09 .51  -.05 .55  0 .515  .05 .55  .09 .51"), ink, 0.02)
    elif who.mouth == "small":
        canvas.shape(_ellipse(0, 0.535, 0.035, 0.04), inside, ink, 0.014)
    else:
        canvas.line(_path("-.06 .53  .06 .53"), ink, 0.022)


def _eyes(canvas: Canvas, who: Character) -> None:
    a, b, slant = who.eye_width, who.eye_height, who.slant
    lid = _points((-a, 0.05 * b), (-0.68 * a, -0.68 * b), (0, -b), (0.68 * a, -0.78 * b + slant / 2), (a, slant))
    lower = _points((0.8 * a, 0.7 * b + slant / 2), (0.1 * a, b), (-0.62 * a, 0.84 * b))
    outline = _smooth(np.concatenate([lid, lower]), closed=True)
    outlines = [_moved(_flipped(outline, side), side * who.eye_x, who.eye_y) for side in (-1, 1)]
    with canvas.clipped(*outlines):
        for side, white in zip((-1, 1), outlines, strict=True):
            canvas.fill(white, (252, 252, 255))
            _iris(canvas, who, side * (who.eye_x - 0.012) + who.gaze, who.eye_y + 0.04 * b)
    upper = _smooth(lid)
    lash = np.concatenate([upper, _points((1.22 * a, slant - 0.22 * b)), (upper * (1.04, 1) - (0, 0.17 * b))[::-1]])
    under = _smooth(_points((0.8 * a, 0.7 * b + slant / 2), (0.45 * a, 0.92 * b), (0, b)))
    crease = upper[6:-6] * (0.95, 1) - (0, 0.4 * b)
    for side in (-1, 1):
        x = side * who.eye_x
        canvas.fill(_moved(_flipped(lash, side), x, who.eye_y), INK)
        canvas.line(_moved(_flipped(under, side), x, who.eye_y), _shade(who.skin, 0.75))
        canvas.line(_moved(_flipped(crease, side), x, who.eye_y), _shade(who.skin, 0.42), 0.012)


def _iris(canvas: Canvas, who: Character, x: float, y: float) -> None:
    a, b = who.eye_width, who.eye_height
    canvas.disc(x, y, 0.78 * a, 0.98 * b, _shade(who.iris, 0.72))
    canvas.disc(x, y + 0.03 * b, 0.68 * a, 0.86 * b, who.iris)
    canvas.disc(x, y + 0.42 * b, 0.5 * a, 0.4 * b, _mix(who.iris, (255, 250, 220), 0.5))
    canvas.disc(x, y - 0.02 * b, 0.34 * a, 0.46 * b, _shade(who.iris, 0.85))
    canvas.disc(x, y - 0.95 * b, 1.1 * a, 0.42 * b, (*_shade(who.iris, 0.9), 120))
    canvas.disc(x - 0.28 * a, y - 0.4 * b, 0.26 * a, 0.24 * b, WHITE)
    canvas.disc(x + 0.3 * a, y + 0.42 * b, 0.14 * a, 0.13 * b, WHITE)


def _brows(canvas: Canvas, who: Character) -> None:
    inner, outer = BROWS[who.brow]
    y = who.eye_y - who.eye_height - 0.115
    brow = _points((0.11, y + inner + 0.01), (0.24, y - 0.03 + (inner + outer) / 2), (0.38, y + outer + 0.02))
    for side in (-1, 1):
        canvas.line(_flipped(_smooth(brow), side), _shade(who.hair, 0.5), 0.03)


BROWS = {"soft": (0.0, 0.0), "raised": (-0.03, -0.03), "stern": (0.035, -0.02), "worried": (-0.035, 0.02)}
"""How far a brow's inner and outer ends are lowered."""


def _glasses(canvas: Canvas, who: Character) -> None:
    if who.glasses == "none":
        return
    frame, width = _mix(INK, who.accent, 0.45), 0.024
    if who.glasses == "round":
        rim = _ellipse(0.25, 0.02, 0.215, 0.215)
    else:
        rim = _curve(".05 -.13  .45 -.13  .44 .19  .06 .19", closed=True)
    for side in (-1, 1):
        placed = _moved(_flipped(rim, side), 0, who.eye_y)
        canvas.fill(placed, (*WHITE, 36))
        canvas.line(np.concatenate([placed, placed[:2]]), frame, width)
        canvas.line(_moved(_flipped(_path(".455 -.01  .52 -.04"), side), 0, who.eye_y), frame, width)
    canvas.line(_moved(_curve("-.045 0  0 -.02  .045 0"), 0, who.eye_y), frame, width)


# ---------------------------------------------------------------------------------------------- hair in front


def _fan(nodes: Points, bow: float) -> Points:
    """Locks that curve away from the middle of the forehead."""
    middles = nodes[:-1, 0] + nodes[1:, 0]
    return _bowed(nodes, np.where(middles < 0, bow, -bow))


def _tousled(who: Character) -> Points:
    nodes = [(-0.44, -0.1)]
    for k, x in enumerate((-0.33, -0.12, 0.1, 0.31)):
        nodes.append((x + 0.03 * who.locks[k], 0.05 + 0.05 * who.locks[k + 5]))
        nodes.append((x + 0.11, -0.14 + 0.05 * who.locks[k + 10]))
    return _fan(_points(*nodes), 0.1)


def _straight(who: Character) -> Points:
    nodes = []
    for k, x in enumerate((-0.43, -0.26, -0.09, 0.09, 0.26)):
        nodes += [(x, -0.04 + 0.01 * who.locks[k]), (x + 0.01, 0.02), (x + 0.155, 0.02)]
    return _bowed(_points(*nodes, (0.43, -0.04)), -0.02)


def _centre_part(who: Character) -> Points:
    locks = _path("-.45 -.05  -.42 .07  -.02 -.48  .02 -.48  .42 .07  .45 -.05")
    return _bowed(locks, 0.1 + 0.04 * who.locks[0])


def _side_part(who: Character) -> Points:
    j = who.locks
    long = _points((-0.45, -0.06), (-0.4 + 0.02 * j[0], 0.08), (-0.24, -0.12), (-0.12 + 0.03 * j[1], 0.03))
    return _fan(np.concatenate([long, _path(".2 -.45  .43 .05  .45 -.06")]), 0.12)


def _centre_lock(who: Character) -> Points:
    tips = [x + 0.03 * shift for x, shift in zip((-0.33, 0.02, 0.33), who.locks, strict=False)]
    left, right = _path("-.45 -.08"), _path(".45 -.08")
    inner = _points((tips[0], 0.04), (-0.12, -0.16), (tips[1], 0.19), (0.12, -0.16), (tips[2], 0.04))
    return _fan(np.concatenate([left, inner, right]), 0.08)


def _swept_back(who: Character) -> Points:
    return _bowed(_path("-.46 0  -.4 -.22  -.16 -.36  .12 -.38  .4 -.22  .46 0"), 0.1)


def _scalloped(who: Character) -> Points:
    return _bowed(_path("-.46 .02  -.42 -.1  -.28 -.17  -.1 -.21  .1 -.21  .28 -.17  .42 -.1  .46 .02"), -0.3)


FRINGES: dict[str, Callable[[Character], Points]] = {
    "tousled": _tousled,
    "straight": _straight,
    "centre_part": _centre_part,
    "side_part": _side_part,
    "centre_lock": _centre_lock,
    "swept_back": _swept_back,
    "scalloped": _scalloped,
}
"""Each gives the fringe's lower edge from left to right."""


def _fringe_edge(who: Character) -> Points:
    """The front hair's lower edge from left to right: side lock, fringe, side lock."""
    fringe = FRINGES[who.fringe](who)
    if who.side < 0:
        fringe = _flipped(fringe[::-1])
    drop = who.side_lock
    outer = _smooth(_points((-0.615, -0.1), (-0.625, drop * 0.6), (-0.54, drop)))
    left = _smooth(_points((-0.54, drop), (-0.475, drop * 0.5), (fringe[0, 0], fringe[0, 1])))
    right = _smooth(_points((fringe[-1, 0], fringe[-1, 1]), (0.475, drop * 0.5), (0.54, drop)))
    return np.concatenate([outer, left, fringe, right, _flipped(outer[::-1])])


def _hair_front(canvas: Canvas, who: Character, edge: Points) -> None:
    hair, line = _hair_tones(who)
    top = _curve(".615 -.1  .58 -.42  .36 -.71  0 -.79  -.36 -.71  -.58 -.42  -.615 -.1")
    canvas.fill(np.concatenate([edge, top]), hair)
    canvas.line(edge, line)
    if who.style not in BUSHY:
        canvas.line(top, line)
        if who.fringe != "swept_back":
            _shine(canvas, who)
    if who.stray:
        lock = _bowed(_flipped(_path("-.08 -.75  .17 -.95  .07 -.75"), who.side), 0.16 * who.side)
        canvas.fill(lock, hair)
        canvas.line(lock, line)


def _shine(canvas: Canvas, who: Character) -> None:
    """The band of light on the crown."""
    light = _mix(who.hair, WHITE, 0.42)
    for side in (-1, 1):
        band = _path(".1 -.56  .24 -.545  .38 -.47  .45 -.36  .4 -.36  .36 -.4  .3 -.41  .24 -.47  .17 -.47  .13 -.52")
        canvas.fill(_flipped(band, side), light)


def _hair_band(canvas: Canvas, who: Character) -> None:
    band = _curve("-.61 -.16  -.5 -.48  -.28 -.66  0 -.71  .28 -.66  .5 -.48  .61 -.16")
    canvas.line(band, _shade(who.accent, 0.6), 0.095)
    canvas.line(band, who.accent, 0.068)


def _clips(canvas: Canvas, who: Character) -> None:
    for y in (-0.2, -0.13):
        canvas.line(_flipped(_points((0.34, y), (0.5, y + 0.02)), who.side), _shade(who.accent, 0.6), 0.05)
        canvas.line(_flipped(_points((0.35, y), (0.49, y + 0.02)), who.side), who.accent, 0.03)


def _bow(canvas: Canvas, who: Character) -> None:
    x, y, line = who.side * 0.4, -0.58, _shade(who.accent, 0.6)
    loop = _curve("0 0  .14 -.12  .2 -.02  .16 .09", closed=True)
    for wing in (-1, 1):
        canvas.shape(_moved(_flipped(loop, wing), x, y), who.accent, line)
    canvas.shape(_ellipse(x, y, 0.05, 0.05), who.accent, line)


def _flower(canvas: Canvas, who: Character) -> None:
    x, y = who.side * 0.45, -0.4
    for angle in np.linspace(0, 2 * math.pi, 5, endpoint=False) - math.pi / 2:
        petal = _ellipse(x + 0.075 * math.cos(angle), y + 0.075 * math.sin(angle), 0.06, 0.06)
        canvas.shape(petal, who.accent, _shade(who.accent, 0.6), 0.012)
    canvas.disc(x, y, 0.05, 0.05, (252, 214, 84))


ORNAMENTS: dict[str, Callable[[Canvas, Character], None]] = {
    "none": lambda canvas, who: None,
    "band": _hair_band,
    "clips": _clips,
    "bow": _bow,
    "flower": _flower,
}

# --------------------------------------------------------------------------------------------------- portrait


def draw_face(seed: int, index: int, size: int = 96) -> Image.Image:
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
    who = _design(_Lots(seed, index))
    canvas = Canvas(size, who.background)
    if who.disc:
        canvas.disc(0, -0.05, 0.86, 0.86, (*WHITE, 90))
    canvas.pose(who.x, who.y, who.scale, who.tilt)
    HAIR_BACKS[who.style](canvas, who)
    canvas.pose(who.x, who.y, who.scale)
    _body(canvas, who)
    canvas.pose(who.x, who.y, who.scale, who.tilt)
    if who.style in OPEN_EARS:
        _ears(canvas, who)
    face, edge = _face_outline(who), _fringe_edge(who)
    canvas.shape(face, who.skin, _shade(who.skin, 0.6))
    with canvas.clipped(face):
        shadow = np.concatenate([_moved(edge, 0, 0.05), _path(".7 -.8  -.7 -.8")])
        canvas.fill(shadow, _shade(who.skin, 0.22))
        _cheeks(canvas, who)
    _nose(canvas, who)
    _mouth(canvas, who)
    _eyes(canvas, who)
    _glasses(canvas, who)
    _hair_front(canvas, who, edge)
    _brows(canvas, who)
    ORNAMENTS[who.ornament](canvas, who)
    return canvas.finished()


def file_name(index: int) -> str:
    """What a portrait's file is called: 00000.jpg, 00001.jpg, ..."""
    return f"{index:05d}.jpg"


def save_faces(folder: str | PathLike[str], indices: Iterable[int], seed: int, size: int = 96) -> Iterator[int]:
    """Draw portraits into a folder that exists, and yield how many are done after each.

    Raises:
        ValueError: a number is below its range in `draw_face`.
        OSError: a file can't be written.
    """
    for done, index in enumerate(indices, start=1):
        path = Path(folder, file_name(index))
        draw_face(seed, index, size).save(path, "JPEG", quality=92, subsampling=0, optimize=False, progressive=False)
        yield done
