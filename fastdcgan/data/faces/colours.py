"""Colours of the portraits: palettes, mixtures and shadows."""

from functools import lru_cache

Colour = tuple[int, ...]
"""RGB or RGBA, each in 0..255."""

WHITE: Colour = (255, 255, 255)
INK: Colour = (38, 28, 40)


def _palette(colours: str) -> tuple[Colour, ...]:
    return tuple(tuple(bytes.fromhex(colour)) for colour in colours.split())


SKIN_COLOURS = _palette("ffe9d9 fdddc7 f6d0b2 eabe9a dcaa82 c69068 aa7450 8a5a3e 6a4430")
HAIR_COLOURS = _palette(
    "2c2632 2c2632 422e2a 623e2c 8e5834 c68a46 f0cc6c ce542c b02c3a f088aa 885cbe 4264c4 54b0d6 36a08c ced4e4 fa9c74"
)
IRIS_COLOURS = _palette("7a4626 543428 b07024 28804e 226ac4 3ca0ce 8046ba c4304c 188a8c 5c647a")
CLOTHES_COLOURS = _palette("2c3e6e c4363e 368064 f6c448 704e96 f0f0f4 3a3a44 ec7c54 589cce ee96b2")
ACCENT_COLOURS = _palette("e2364a fafafc 3c78d8 fabe34 2ea078 f480aa")
BACKGROUND_TOPS = _palette("acdafa ffd6c4 ceeccc e2d0f8 ffe89e fac4d6 a8e2de 7896ce f6aa82 d6dae4")
BACKGROUND_BOTTOMS = _palette("e8f6ff fff3dc f4fce4 faeeff fffade ffecf0 e4faf4 ced8f6 ffe2b4 f6f7fa")
BACKGROUNDS = tuple(zip(BACKGROUND_TOPS, BACKGROUND_BOTTOMS, strict=True))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Interpolate between two RGB colours; `share` is that of the second."""
    (a, b, c), (x, y, z) = first, second
    return (round(a + (x - a) * share), round(b + (y - b) * share), round(c + (z - c) * share))


@lru_cache(1024)
def shade(colour: Colour, strength: float) -> Colour:
    """The colour in shadow: darker and a little towards violet."""
    return mix(colour, (46, 16, 56), strength)
