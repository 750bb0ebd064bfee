"""Lists of labelled image files, and how they become a cached set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alframe.dataset.cache import Allocate, cached, fingerprint
from alframe.dataset.decode import POLICY, WHITE, Size, decode_files, endings
from alframe.dataset.walk import list_files
from alframe.errors import DataError
from alframe.images import ImageSet


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
        white: int = WHITE,
    ) -> ImageSet:
        """Decode (once) and map; `source` replaces the files' fingerprint if a version identifies them."""

        def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
            options: dict[str, Any] = {"size": size, "channels": channels, "skip_broken": skip_broken, "white": white}
            decoded = decode_files(self.files, allocate=allocate, **options)
            kept = decoded.kept
            names = tuple(self._name(self.files[i]) for i in kept)
            groups = None if self.groups is None else self.groups[kept]
            images = ImageSet(decoded.pixels, self.labels[kept], self.classes, groups, names)
            return images, tuple(self._name(file) for file in decoded.skipped)

        parameters = {"policy": POLICY, "size": size, "channels": channels, "skip_broken": skip_broken}
        parameters |= {} if white == WHITE else {"white": white}
        return cached(cache, name, parameters, source or fingerprint(self.root, self.files), build)

    def _name(self, file: Path) -> str:
        return file.relative_to(self.root).as_posix()


def load_unlabelled(folder: Path, like: ImageSet, cache: Path) -> ImageSet:
    """All image files under `folder` (recursively), in the shape and with the classes of `like`; labels are -1.

    Raises DataError for a folder without images, for unreadable files, and for other sizes if those of `like` are not
    square.
    """
    files = [file for file in list_files(folder) if file.suffix.lower() in endings()]
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


def images_in(folder: Path, pattern: str = "**/*") -> list[Path]:
    """The files of a class folder. Raises DataError if there is none."""
    files = list_files(folder, pattern)
    if not files:
        matching = "" if pattern == "**/*" else f" matching {pattern}"
        raise DataError(
            f"Expected at least one image{matching} in the class folder {folder}, got none; add some or remove the folder."
        )
    return files


def existing_folder(root: str | Path | None, what: str, how: str) -> Path:
    """`root` as a path. Raises DataError, which says `how` to get the data, if it is null or does not exist."""
    if root is None:
        raise DataError(f"Expected dataset.root to be {what}, got null; {how}.")
    path = Path(root).expanduser()
    if not path.is_dir():
        got = "a file" if path.is_file() else "no such folder"
        raise DataError(f"Expected dataset.root to be {what}, got {path} ({got}); {how}.")
    return path
