"""JSON that means one thing only: what Python's parser lets pass beyond the standard is refused."""

import json
import math
from typing import Any, NoReturn


def parse(text: bytes) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: it is no JSON in UTF-8, says a key twice, has a number that is not finite, or is nested too deeply.
    """
    try:
        return json.loads(text.decode(), object_pairs_hook=_table, parse_constant=_not_a_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key comes twice")
    return table


def _not_a_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
