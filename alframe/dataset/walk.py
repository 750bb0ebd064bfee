"""The one way in which folders of images are searched: links are followed, what file browsers and servers leave there is not."""

import os
import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from alframe.names import printable
from alframe.record.layout import CONFIG

JUNK = {
    *(
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
    ),
    *("@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "thumbnails"),
}
"""Files and folders of file browsers, archives, network drives and operating systems, in any case; so are hidden ones."""
CONVERTED = {".heic": "heic", ".heif": "heic"}
"""Endings of images that an extra of this name makes readable."""
OTHER_IMAGES = {
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".raw",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".orf",
    ".rw2",
    ".svg",
    ".psd",
}
"""Endings of images that may need another program."""


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's own."""
    made = name.startswith((".", "SYNOPHOTO_", "SYNOFILE_")) or name.endswith(("@SynoEAStream", "@SynoResource"))
    return made or name.casefold() in JUNK


def list_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """Files in and below `folder` whose path matches `pattern`, sorted by path.

    Linked files and folders count like others. A folder that several links lead to is entered once, and no link leads up to a
    folder that `folder` lies in: its photos would be those of other classes.
    """
    fits = _matcher(pattern)
    return sorted(Path(file) for file in _files(str(folder)) if fits(os.path.relpath(file, folder)))


def _identity(path: str | Path) -> tuple[int, int]:
    """Device and inode: what is the same for all names of one folder."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _above(folder: str | Path) -> set[tuple[int, int]]:
    """The folders that `folder` lies in, by its path as written and by its path without links."""
    return {
        _identity(each) for path in (os.path.abspath(folder), os.path.realpath(folder)) for each in Path(path).parents
    }


def _files(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        return
    entered = _above(folder)
    waiting = deque([folder])  # the shortest way to a folder counts
    while waiting:
        at = waiting.popleft()
        try:
            if (identity := _identity(at)) in entered:
                continue
            entered.add(identity)
            entries = sorted(os.scandir(at), key=lambda entry: entry.name)
        except PermissionError:
            if at == folder:
                raise
            continue
        except OSError:
            continue  # a folder that has vanished, or a link to nowhere
        for entry in entries:
            if is_junk(entry.name):
                continue
            if entry.is_dir():
                waiting.append(entry.path)
            elif entry.is_file():
                yield entry.path


@cache
def _matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a relative path matches a pattern of `pathlib`'s kind, in which ** stands for any number of folders."""
    if pattern == "**/*":
        return lambda path: True
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    regex = re.compile(
        "".join(known.get(one, one if one.startswith("[") and one.endswith("]") else re.escape(one)) for one in parts)
    )
    return lambda path: regex.fullmatch(path) is not None


def list_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that may hold images, sorted: no hidden ones, no junk, no runs of studies, no links up."""
    above = {*_above(folder), _identity(folder)}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_dir()
        and not is_junk(entry.name)
        and _identity(entry.path) not in above
        and not _holds_runs(entry.path)
    )


def _holds_runs(folder: str) -> bool:
    return any(True for depth in ("seed=*", "*/seed=*", "*/*/seed=*") for _ in Path(folder).glob(f"{depth}/{CONFIG}"))


def described(files: Iterable[Path]) -> list[str]:
    """What is passed over and may have been meant as an image, in words: by ending, with how it becomes readable."""
    counts = Counter(file.suffix.lower() for file in files)
    said = []
    for ending, n in sorted(counts.items()):
        extra = CONVERTED.get(ending)
        how = (
            f" (pip install 'alframe[{extra}]', or convert to .jpg)"
            if extra
            else " (convert to .png or .jpg)"
            if ending in OTHER_IMAGES
            else ""
        )
        said.append(f"{n:,} {printable(ending) or 'without an ending'}{how}")
    return said
