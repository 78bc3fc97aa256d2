"""JSON by the standard alone: duplicate keys, NaN, infinities and deep nesting are refused, which `json` accepts."""

import json
import math
import sys
from typing import Any, NoReturn


def parse(text: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it isn't JSON in UTF-8, has a duplicate key or a number that is not finite, or is nested too deeply.
    """
    try:
        return json.loads(
            text.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold, and not true or false. JSON's whole numbers may have any length."""
    return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key comes twice")
    return fields


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
