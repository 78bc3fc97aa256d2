"""Text from outside (paths, names) made safe to print on a terminal."""

import os
from pathlib import Path


def printable(text: str | Path) -> str:
    """A path or any other text as one line that any terminal can print.

    What would move the cursor, set a colour or reverse the direction of writing is escaped.
    """
    try:
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can name it
        text = str(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
