"""How counts are said to people."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """ "1 file", "2,000 files"; of nouns that take more than an s the plural is named: "3 copies"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
