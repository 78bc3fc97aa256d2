"""Files as accidents leave them: flipped, cut, spliced, mixed up. Which accident is a function of a number."""

import random
import shutil
from pathlib import Path


def corrupt(number: int, saved: Path, other: Path, folder: Path) -> str:
    """Copy a checkpoint into a folder and do something to one of its files.

    Args:
        number: says what.
        saved: the checkpoint.
        other: another of the same files and shapes, to take bytes from.
        folder: where the copy goes; it must not exist.

    Returns:
        what was done.
    """
    rng = random.Random(number)
    shutil.copytree(saved, folder)
    path = folder / rng.choice(sorted(file.name for file in saved.iterdir()))
    data = bytearray(path.read_bytes())
    theirs = (other / path.name).read_bytes()
    # Headers, and what is small, are where damage does most: half of all of it begins in the first bytes.
    place = rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data))
    length = rng.choice((1, 4, 8, 64, 1000))
    kind = rng.choice(("flip", "flips", "cut", "lose", "double", "splice", "zero", "noise", "swap", "words", "remove"))
    match kind:
        case "flip":
            data[place] ^= 1 << rng.randrange(8)
        case "flips":
            for _ in range(length):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case "cut":
            del data[place:]
        case "lose":
            del data[place : place + length]
        case "double":
            data[place:place] = data[place : place + length]
        case "splice":
            data[place : place + length] = theirs[place : place + length]
        case "zero":
            data[place : place + length] = bytes(len(data[place : place + length]))
        case "noise":
            data[place : place + length] = rng.randbytes(length)
        case "swap":
            data[:] = theirs
        case "words":
            data[place:place] = rng.choice(
                (b"[" * 100_000, b"NaN", b"1e999", b"9" * 5000, b'"step": 1, ', b"{}", b"\xff")
            )
    if kind == "remove":
        path.unlink()
    else:
        path.write_bytes(data)
    return f"{number}: {kind} {path.name} at {place}, {length} bytes"


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, splices and repeats: one to four of them."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 2, 8, 64, 512))
        match rng.randrange(7):
            case 0 if data:
                data[at - 1] ^= 1 << rng.randrange(8)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + length]
            case 4:
                data[at : at + length] = rng.randbytes(length)
            case 5:
                other = rng.randrange(len(data) + 1)
                data[at : at + length] = data[other : other + length]
            case _:
                data[at:at] = rng.choice((b"\0", b"\xff" * 8, b"\x7f\xff\xff\xff"))
    return bytes(data)
