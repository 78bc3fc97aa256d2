"""Numbers of any range as 8 bits: LO becomes 0, HI 255, what lies between is scaled, what lies outside is clipped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdcgan.data.arrays.picture_array import PictureArray

SAMPLED_VALUES = 2**22
"""Values that a range is found from: of pictures evenly spread over the set."""

SAMPLED_PICTURES = 1024

_TAIL = 0.1
"""Percent of the values left out at either end, where they would squeeze the others."""

_HARMLESS = 0.1
"""The least and the largest value are taken themselves where they widen the range by no more than this share."""


_FRACTIONS = " (fractions that were cast to whole numbers? save them as they were: they are scaled)"


@dataclass(frozen=True)
class ValueRange:
    """The values that become 0 and 255."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Scaled, rounded and clipped; NaN becomes 0."""
        small = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
        kind = np.float32 if small else np.float64
        scaled: NDArray[Any] = values.astype(kind)
        with np.errstate(invalid="ignore", over="ignore"):  # of NaN and infinities
            scaled -= kind(self.low)
            scaled *= kind(255 / (self.high - self.low))
        np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
        rounded: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
        return rounded


def sample(pictures: PictureArray) -> NDArray[Any]:
    """Some of an array's values, from pictures evenly spread over its first axis."""
    count = min(len(pictures), SAMPLED_PICTURES, max(1, SAMPLED_VALUES // max(1, pictures[0].size)))
    places = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    return np.concatenate([np.asarray(pictures[place]).reshape(-1)[: SAMPLED_VALUES // count + 1] for place in places])


def range_of(values: NDArray[Any], what: str) -> ValueRange:
    """The range that suits values: all of them, or all but a thousandth at either end where a few lie far out.

    Args:
        values: any numbers; what isn't finite is passed over.
        what: where they are from, for the user.

    Raises:
        ValueError: they are all the same, or none is finite.
    """
    if values.dtype == np.bool_:
        return ValueRange(0.0, 1.0)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not len(finite):
        raise ValueError(f"{what}: none of its values is a finite number")
    least, low, high, most = (float(at) for at in np.percentile(finite.astype(float), (0, _TAIL, 100 - _TAIL, 100)))
    if least == most:
        raise ValueError(f"{what}: every value is {least:g}, so all pictures are of one colour")
    if high == low:
        return ValueRange(least, most)
    slack = _HARMLESS * (high - low)
    return ValueRange(least if low - least <= slack else low, most if most - high <= slack else high)


def settle_range(values: NDArray[Any], asked: ValueRange | None, what: str) -> tuple[ValueRange | None, str]:
    """The range that pictures are brought to bytes by, and what to say of it.

    Args:
        values: a `sample` of theirs.
        asked: by the user; None for the values' own, which is as they are for bytes.
        what: where they are from, for the user.

    Returns:
        None for bytes that stay as they are; and a clause for the source's description.

    Raises:
        ValueError: all pictures would be of one colour.
    """
    if asked is None and values.dtype == np.uint8:
        return None, _warning(values)
    taken = asked or range_of(values, what)
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    shown = taken.to_bytes(finite)
    if len(shown) and shown.min() == shown.max():
        raise ValueError(
            f"{what}: by --value-range {taken.low:g},{taken.high:g} all pictures are of one colour; its values go "
            f"from {float(finite.min()):g} to {float(finite.max()):g}"
        )
    lost = "; NaN and infinities among them are taken for the ends" if len(finite) < len(values) else ""
    return taken, f", {taken} scaled to 0 to 255 (--value-range){lost}"


def _warning(values: NDArray[Any]) -> str:
    """What looks wrong with bytes."""
    least, most = int(values.min()), int(values.max())
    if least == most:
        return f"; every value is {least}, so all pictures are of one colour{_FRACTIONS}"
    return f"; no value is over 1, so all is black or almost: --value-range 0,1 scales them{_FRACTIONS}" * (most == 1)
