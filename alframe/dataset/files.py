"""Lists of labelled image files, and how they become a cached set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from alframe.dataset.cache import Allocate, cached, fingerprint
from alframe.dataset.decode import POLICY, Size, decode_files
from alframe.errors import DataError
from alframe.images import ImageSet

FOLDERS = {"train": 0, "val": 1, "valid": 1, "validation": 1, "test": 2}  # name: group
TEST = 2
NOT_IMAGES = {"thumbs.db", "desktop.ini"}  # created by file browsers; hidden files are skipped too


@dataclass(frozen=True)
class Files:
    """Image files under `root` with their labels (0 to c - 1) and groups, one each."""

    root: Path
    files: tuple[Path, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None

    def load(
        self,
        cache: Path,
        name: str,
        *,
        size: Size,
        channels: Literal[1, 3] | None,
        skip_broken: bool = False,
        source: str | None = None,
    ) -> ImageSet:
        """Decode (once) and map; `source` replaces the files' fingerprint if a version identifies them."""

        def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
            decoded = decode_files(self.files, size=size, channels=channels, skip_broken=skip_broken, allocate=allocate)
            kept = decoded.kept
            names = tuple(self._name(self.files[i]) for i in kept)
            groups = None if self.groups is None else self.groups[kept]
            images = ImageSet(decoded.pixels, self.labels[kept], self.classes, groups, names)
            return images, tuple(self._name(file) for file in decoded.skipped)

        parameters = {"policy": POLICY, "size": size, "channels": channels, "skip_broken": skip_broken}
        return cached(cache, name, parameters, source or fingerprint(self.root, self.files), build)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()


def load_unlabelled(folder: Path, like: ImageSet, cache: Path) -> ImageSet:
    """All image files under `folder` (recursively), in the shape and with the classes of `like`; labels are -1.

    Raises DataError for a folder without images, for unreadable files, and for other sizes if those of `like` are not
    square.
    """
    endings = Image.registered_extensions()
    files = [file for file in list_files(folder) if file.suffix.lower() in endings]
    if not files:
        raise DataError(f"Expected unlabelled images in {folder}, got none; put them there, or set query.target=pool.")
    channels, height, width = like.shape
    listed = Files(folder, tuple(files), np.full(len(files), -1, dtype=np.int64), like.classes)
    size = height if height == width else None
    images = listed.load(cache, "target", size=size, channels=3 if channels == 3 else 1)
    if images.shape != like.shape:
        raise DataError(
            f"Expected images of {height} x {width} pixels in {folder}, like those of the dataset, got {images.shape[1]} x "
            f"{images.shape[2]}; resize them, or set dataset.size."
        )
    return images


def list_files(folder: Path, pattern: str = "**/*") -> list[Path]:
    """Files under `folder` that match `pattern`, sorted by path; hidden files and those of file browsers are skipped."""
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.is_file()
        and file.name.lower() not in NOT_IMAGES
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def list_classes(folder: Path) -> list[str]:
    """Names of the folders in `folder`, sorted; hidden ones are skipped."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_of_classes(folder: Path, classes: Sequence[str], pattern: str = "**/*") -> list[tuple[Path, str]]:
    """(file, class) for every image in the class folders. Raises DataError for a class folder without any."""
    found = []
    for name in classes:
        files = list_files(folder / name, pattern)
        if not files:
            matching = "" if pattern == "**/*" else f" matching {pattern}"
            raise DataError(
                f"Expected at least one image{matching} in the class folder {folder / name}, got none; add some or remove the folder."
            )
        found += [(file, name) for file in files]
    return found


def existing_folder(root: str | Path | None, what: str, how: str) -> Path:
    """`root` as a path. Raises DataError, which says `how` to get the data, if it is null or does not exist."""
    if root is None:
        raise DataError(f"Expected dataset.root to be {what}, got null; {how}.")
    path = Path(root).expanduser()
    if not path.is_dir():
        got = "a file" if path.is_file() else "no such folder"
        raise DataError(f"Expected dataset.root to be {what}, got {path} ({got}); {how}.")
    return path
