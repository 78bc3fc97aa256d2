"""Classes of pictures, where a source has them: by subfolder, by StyleGAN's `dataset.json`, or by number."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastdcgan.storage import strict_json

DATASET_JSON = "dataset.json"
"""StyleGAN's file of labels, at the top of a folder or archive: `{"labels": [["00000/img00000000.png", 6], ...]}`."""

MAX_DATASET_JSON = 2**28
"""Limit of it, in bytes."""

_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})
_CHUNK = re.compile(r"[0-9]{5}")
"""How StyleGAN's tools and FFHQ name folders that merely divide many files."""


@dataclass(frozen=True, eq=False)
class Labels:
    """The class of each picture."""

    numbers: NDArray[np.int32]
    """[N]: for each picture a place in `classes`."""

    classes: tuple[str, ...]
    """Their names, as given; each has at least one picture."""

    def counts(self) -> list[int]:
        """How many pictures each class has."""
        return [int(count) for count in np.bincount(self.numbers, minlength=len(self.classes))]

    def digest(self) -> str:
        """Of the names, and of each picture's class: 16 hexadecimal digits."""
        return hashlib.sha256(repr(self.classes).encode() + self.numbers.astype("<i4").tobytes()).hexdigest()[:16]


def labels_from_numbers(numbers_N: NDArray[np.integer], names: Sequence[str] = ()) -> Labels:
    """Labels of pictures whose classes are numbers.

    Args:
        numbers_N: whole numbers, of any values.
        names: of the classes, by number; without one a class is called by its number.
    """
    found, places_N = np.unique(numbers_N, return_inverse=True)
    classes = (names[number] if 0 <= number < len(names) else str(number) for number in found.tolist())
    return Labels(places_N.reshape(-1).astype(np.int32), tuple(classes))


def labels_from_paths(paths: Iterable[str]) -> Labels | None:
    """Labels by the uppermost folders that divide the pictures; None where they don't.

    A folder that holds everything is looked into, and so are those that divide pictures into parts to train and to
    test on. Folders are no classes where some pictures are in none, where they are only called by five digits each, as
    those are that StyleGAN's tools make, or where there is one for fewer than two pictures.

    Args:
        paths: of the pictures, relative to what the user gave, with "/".
    """
    folders: dict[str, int] = {}
    folder_N = np.fromiter((folders.setdefault(_folder(path), len(folders)) for path in paths), np.int32)
    parts = [folder.split("/") if folder else [] for folder in folders]
    depth = 0
    while parts and all(len(part) > depth for part in parts):
        names = {part[depth] for part in parts}
        if len(names) == 1 or all(name.lower() in _SPLITS for name in names):
            depth += 1
            continue
        if 2 * len(names) > len(folder_N) or all(_CHUNK.fullmatch(name) for name in names):
            return None
        classes = sorted(names, key=int if all(name.isascii() and name.isdecimal() for name in names) else str)
        places = {name: place for place, name in enumerate(classes)}
        class_of_folder = np.array([places[part[depth]] for part in parts], np.int32)
        return Labels(class_of_folder[folder_N], tuple(classes))
    return None


def read_dataset_json(data: bytes, names: Sequence[str]) -> NDArray[np.int32] | None:
    """The label of each picture by StyleGAN's file; None where it doesn't give a whole number for each.

    Args:
        data: the file's content.
        names: of the pictures, relative to the file's folder, with "/".
    """
    try:
        labels = dict(strict_json.parse(data)["labels"])
        found = [labels[name.removeprefix("./")] for name in names]
    except (ValueError, TypeError, LookupError):
        return None
    if not found or not all(type(label) is int and 0 <= label < 2**31 for label in found):
        return None
    return np.array(found, np.int32)


def _folder(path: str) -> str:
    return path.removeprefix("./").rpartition("/")[0]
