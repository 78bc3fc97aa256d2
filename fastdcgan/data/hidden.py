"""Hidden files and those that tools leave in a folder: copies, thumbnails, metadata. None is a picture of the set.

Only names below what the user gave count: a set may itself lie in a hidden folder.
"""

HIDDEN_FILE = "a hidden or tool file"
IN_HIDDEN_FOLDER = "in a hidden or tool folder"

_TOOL_NAMES = frozenset(
    name.lower()
    for name in (
        *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
        *("__pycache__", "Thumbs.db", "ehthumbs.db", "desktop.ini"),
    )
)


def is_hidden(part: str) -> bool:
    """Whether a file or folder of this name, without the folders before it, is hidden or a tool's."""
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in _TOOL_NAMES


def why_hidden(name: str) -> tuple[str, str]:
    """Why a file is left out, and for which kind of name; two empty strings for one that isn't.

    Args:
        name: a path relative to the folder or archive that the user gave, with "/".

    Returns:
        `IN_HIDDEN_FOLDER` and the folder's name, or `HIDDEN_FILE` and "._*" (macOS's metadata), ".*" or a tool's name.
    """
    *folders, file = name.split("/")
    for folder in folders:
        if is_hidden(folder):
            return IN_HIDDEN_FOLDER, folder
    if not is_hidden(file):
        return "", ""
    return HIDDEN_FILE, "._*" if file.startswith("._") else ".*" if file.startswith(".") else file
