"""How counts are said to people."""


def counted(count: int, noun: str) -> str:
    """ "1 file", "2,000 files"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
