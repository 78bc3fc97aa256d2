"""Names that others chose, as a terminal may see them."""

import os
from pathlib import Path


def printable(text: str | Path) -> str:
    """A path, or any other text, as one line that any terminal can print, whatever it is made of.

    What would move a cursor, set a colour or turn the direction of writing is spelt out.
    """
    try:
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can name it
        text = str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
