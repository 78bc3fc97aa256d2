"""Which members of an archive are pictures of their own, by their names alone.

WebDataset takes what precedes the first dot of a name for the key of a sample, and members of one key for its parts.
Photos have dots in their names too: by that rule `IMG.2023.05.01.jpg` and `IMG.2023.05.02.jpg` would be two parts of
`IMG`, neither of them a picture. So a picture is what ends in a picture's suffix, unless its name only continues that
of another: `a/07.seg.png` belongs to `a/07.jpg` where there is one.
"""

import itertools
from collections.abc import Iterable, Sequence


def second_pictures(names: Sequence[str], others: Iterable[str] = ()) -> list[int]:
    """Which pictures continue the name of another one, as `a/07.seg.png` does that of `a/07.jpg`.

    Args:
        names: of pictures.
        others: of pictures that can't be used; what belongs to these is not a picture of its own either.

    Returns:
        their places in `names`, ascending.
    """
    dotted = {place: starts for place, name in enumerate(names) if (starts := _shorter_stems(name))}
    if not dotted:
        return []
    stems = {_stem(name) for name in itertools.chain(names, others)}
    return [place for place, starts in dotted.items() if not stems.isdisjoint(starts)]


def count_sharing(names: Iterable[str]) -> int:
    """How many have the same WebDataset key (up to the first dot) as a neighbour: parts of a sample are neighbours."""
    sizes = (len(list(group)) for _, group in itertools.groupby(names, _key))
    return sum(size for size in sizes if size > 1)


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _key(name: str) -> str:
    folder, slash, file = name.rpartition("/")
    return folder + slash + file.partition(".")[0]


def _shorter_stems(name: str) -> list[str]:
    """ "a/x", "a/x.y" for "a/x.y.z.png"."""
    folder, slash, file = name.rpartition("/")
    *parts, _ = file.split(".")
    return [folder + slash + start for start in itertools.accumulate(parts[:-1], "{}.{}".format)]
