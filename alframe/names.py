"""File names are bytes, and may be no text: they are opened and hashed as they are, and escaped where text is written."""

import os
from pathlib import PurePath


def printable(name: str | PurePath) -> str:
    """A name as text that any file or terminal takes: bytes that are no UTF-8 become `\\xe9`."""
    return os.fsencode(str(name)).decode("utf-8", "backslashreplace")


def is_text(name: str | PurePath) -> bool:
    """Whether a name is UTF-8 as it stands."""
    return printable(name) == str(name)
