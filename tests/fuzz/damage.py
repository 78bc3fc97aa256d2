"""What is done to bytes before they go through a door: accidents, and odd values where there is JSON."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

SPICES = (
    b"\0",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"1e999",
    b"9" * 400,
    b"9" * 5000,
    b"-",
    b"NaN",
    b'"\\ud800"',
    b"null",
    b"../../../../etc/passwd",
    b"\x1b[31m",
    b"\r\n",
    b"\x80\x04\x95",
    b"0xffffffffffffffffff",
    b"\xd9\xa3",  # an Arabic three, which is a digit to Python
)

ODD = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 10**30, 1e308, -1e308, 5e-324),
    *("", "0", "nan", "inf", "\ud800", "\x1b[31m\n", "../../etc/passwd", "<script>", "x" * 10_000, "٣", "2026-01-01"),
    *([], {}, [[]], [None], {"": None}, [0, 1], [1e308, -1e308], ["a", {}], {"step": 1}),
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Flips, cuts, splices, repeats and spices: one to four of them."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        # Headers, and what is small, are where damage does most.
        end = draw(st.sampled_from((min(400, len(data)), len(data))))
        at, length = draw(st.integers(0, end)), draw(st.sampled_from((1, 2, 4, 8, 64, 512)))
        match draw(st.sampled_from(("flip", "cut", "lose", "double", "noise", "swap", "spice", "number"))):
            case "flip" if data:
                data[at - 1] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "lose":
                del data[at : at + length]
            case "double":
                data[at:at] = data[at : at + length]
            case "noise":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "swap":
                other = draw(st.integers(0, len(data)))
                data[at : at + length] = data[other : other + length]
            case "number":
                number = draw(st.sampled_from((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)))
                size = draw(st.sampled_from((2, 4, 8)))
                order = draw(st.sampled_from(("little", "big")))
                data[at : at + size] = (number % 256**size).to_bytes(size, order)  # type: ignore[arg-type]
            case _:
                data[at:at] = draw(st.sampled_from(SPICES))
    return bytes(data)


@st.composite
def odd(draw: st.DrawFn, whole: bytes) -> bytes:
    """JSON, or lines of it, with one to three values that nobody expects at their places."""
    lines = [json.loads(line) for line in (whole.splitlines() if is_lines(whole) else [whole])]
    for _ in range(draw(st.integers(1, 3))):
        places = [(holder, key) for holder, key in places_in(lines) if key in holder or isinstance(holder, list)]
        if not places:
            break
        holder, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("value", "value", "value", "lose", "name", "more"))):
            case "lose":
                del holder[key]
            case "name" if isinstance(holder, dict):
                holder[draw(st.sampled_from([word for word in ODD if isinstance(word, str)]))] = holder.pop(key)
            case "more" if isinstance(holder, list):
                holder.extend(holder * draw(st.sampled_from((1, 100))))
            case _:
                holder[key] = draw(st.sampled_from(ODD) | st.integers() | st.floats() | st.text(max_size=20))
    return b"\n".join(json.dumps(line).encode() for line in lines)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """All that can be replaced in a tree: who holds it, and where."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places_in(value[key])


def is_lines(whole: bytes) -> bool:
    return whole.endswith(b"\n") and whole.startswith(b"{") and whole.count(b"\n") > 1 and b"\n " not in whole


def bytes_for(whole: bytes) -> st.SearchStrategy[bytes]:
    """What goes through a door that takes `whole`."""
    try:
        for line in whole.splitlines() if is_lines(whole) else [whole]:
            json.loads(line)
    except ValueError:
        return damaged(whole)
    return odd(whole) | odd(whole) | damaged(whole)
