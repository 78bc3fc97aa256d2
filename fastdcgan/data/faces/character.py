"""The character that a portrait shows: its features, chosen at random."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from fastdcgan.data.faces.colours import (
    ACCENT_COLOURS,
    BACKGROUNDS,
    CLOTHES_COLOURS,
    HAIR_COLOURS,
    IRIS_COLOURS,
    SKIN_COLOURS,
    Colour,
    mix,
    shade,
)

T = TypeVar("T")

STYLES = ("short", "bob", "long", "wavy", "twin_tails", "spiky", "bun", "buns", "ponytail", "curls")
"""Of hair. The order is part of the drawing version."""


class RandomChoices:
    """Random choices, a function of (seed, index). NumPy's generator only gives numbers in [0, 1)."""

    def __init__(self, seed: int, index: int):
        self._numbers = iter(np.random.default_rng((seed, index)).random(160).tolist())

    def between(self, low: float, high: float) -> float:
        """A uniform number."""
        return float(low + (high - low) * next(self._numbers))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(next(self._numbers) < probability)

    def one(self, options: Sequence[T]) -> T:
        """One of the options, each as probable."""
        return options[int(next(self._numbers) * len(options))]


@dataclass(frozen=True, kw_only=True)
class Character:
    """All that the drawing functions need to know."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    accent: Colour
    background: tuple[Colour, Colour]
    disc: bool
    """A pale disc behind the head."""
    style: str
    fringe: str
    side: int
    """-1 (left) or 1 (right): where asymmetric details are."""
    side_lock: float
    """How far down the locks beside the face reach."""
    deviations: tuple[float, ...]
    """24 random numbers in [-1, 1], for details that should look irregular: tips, bumps, the swing of a tail."""
    stray_lock: bool
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


OPEN_EAR_STYLES = ("short", "spiky", "bun", "ponytail", "buns", "curls")
"""Styles that leave the ears free."""
BUSHY_STYLES = ("spiky", "curls")
"""Styles that hide the outline of the head."""
STYLE_FRINGES = {"curls": ("scalloped", "swept_back")} | dict.fromkeys(
    ("short", "spiky", "bun", "ponytail"),
    ("tousled", "straight", "centre_part", "side_part", "centre_lock", "swept_back"),
)
"""The fringes of a style; other styles have any but "scalloped" and "swept_back"."""


def random_character(choices: RandomChoices) -> Character:
    """Choose the features. Their order is part of the drawing version."""
    style = choices.one(STYLES)
    fringes = STYLE_FRINGES.get(style, ("tousled", "straight", "centre_part", "side_part", "centre_lock"))
    return Character(
        skin=mix(choices.one(SKIN_COLOURS), choices.one(SKIN_COLOURS), choices.between(0, 0.25)),
        hair=mix(choices.one(HAIR_COLOURS), choices.one(HAIR_COLOURS), choices.between(0, 0.1)),
        iris=choices.one(IRIS_COLOURS),
        clothes=choices.one(CLOTHES_COLOURS),
        accent=choices.one(ACCENT_COLOURS),
        background=choices.one(BACKGROUNDS),
        disc=choices.chance(0.35),
        style=style,
        fringe=choices.one(fringes),
        side=choices.one((-1, 1)),
        side_lock=choices.between(0.12, 0.2) if style in OPEN_EAR_STYLES else choices.between(0.42, 0.72),
        deviations=tuple(choices.between(-1, 1) for _ in range(24)),
        stray_lock=choices.chance(0.2),
        jaw=choices.between(0.31, 0.37),
        chin=choices.between(0.66, 0.72),
        eye_x=choices.between(0.24, 0.26),
        eye_y=choices.between(0.19, 0.22),
        eye_width=choices.between(0.155, 0.178),
        eye_height=choices.between(0.165, 0.205),
        slant=choices.between(-0.035, 0.035),
        gaze=choices.one((-0.03, 0.0, 0.0, 0.03)),
        brow=choices.one(("soft", "soft", "raised", "stern", "worried")),
        mouth=choices.one(("smile", "smile", "open", "open", "neutral", "small", "grin", "cat")),
        blush=choices.one((0.0, 0.35, 0.6, 0.8)),
        freckles=choices.chance(0.1),
        glasses=choices.one(("none",) * 8 + ("round", "square")),
        ornament=choices.one(("none", "none", "none", "band", "clips", "bow", "flower")),
        outfit=choices.one(("tee", "shirt", "sailor", "turtleneck", "hoodie")),
        x=choices.between(-0.035, 0.035),
        y=choices.between(-0.03, 0.03),
        scale=choices.between(0.96, 1.04),
        tilt=choices.between(-0.07, 0.07),
    )


def hair_tones(character: Character) -> tuple[Colour, Colour]:
    """The colours of the hair and of its outline."""
    return character.hair, shade(character.hair, 0.62)
