"""A folder that receives photos during a run: its current files, and the class of each photo's folder."""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from alframe.console import progress
from alframe.dataset.augment import Augmentation
from alframe.dataset.class_folders import class_folders, n_loose
from alframe.dataset.decode import (
    PROGRESS_FROM,
    WHITE,
    Size,
    attempts,
    common_shape,
    decode_file,
    endings,
    lost_pixels,
    read_head,
    shallow,
)
from alframe.dataset.files import existing_folder
from alframe.dataset.normal import GUESS, Normal
from alframe.dataset.split import Sampled
from alframe.dataset.splits import TEST
from alframe.dataset.walk import described, list_files
from alframe.errors import ConfigError, DataError
from alframe.images import Augment, Data
from alframe.part import Change, moved

AUGMENTATION = Augmentation(flip=True, vertical_flip=False, crop=8, brightness=0.1)
WHAT = "a folder with unlabelled photos, and a subfolder for each class where some are labelled"


@dataclass(frozen=True)
class Photo:
    """A file: its `name` (path relative to the root), the class of its folder or None, and size and time to detect changes."""

    name: str
    class_name: str | None
    is_test: bool
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class PhotoFolder(Sampled):
    """`root`/`unlabelled`/** beside class folders, or beside train/<class>, val/<class> and test/<class>; see `ImageFolder`.

    Only files with an image extension count. Nothing is read before a method is called. With `size_warning` a run that keeps
    few of the photos' pixels says so (`lost_pixels`). `white` is the value of 16-bit grey that becomes white, auto the largest of
    all files, null 65,535; `max_pixels` is how many pixels a file may have (null: about 179 million).
    """

    root: str | Path | None = None
    name: str = "image_folder"
    size: Size = 128
    channels: Literal[1, 3] | None = None
    pattern: str = "**/*"
    classes: list[str] | None = None
    unlabelled: str = "unlabelled"
    skip_broken: bool = False
    test_share: float = 0.25
    augmentation: Augment | None = AUGMENTATION
    how_to_get: str = "put your images there, or set dataset.root=/path/to/your/images"
    normal: Normal = field(default=GUESS, kw_only=True)
    size_warning: bool = field(default=True, kw_only=True)
    white: int | Literal["auto"] | None = field(default=None, kw_only=True)
    max_pixels: int | None = field(default=None, kw_only=True)

    added_options: ClassVar[Mapping[str, Any]] = {
        **Sampled.added_options,
        "size_warning": True,
        "white": None,
        "max_pixels": None,
    }
    not_in_identity: ClassVar[frozenset[str]] = frozenset({"size_warning", "max_pixels"})
    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved}

    @property
    def path(self) -> Path:
        """The root. Raises DataError if it does not exist."""
        return existing_folder(self.root, WHAT, self.how_to_get).resolve()

    def places(self) -> list[tuple[Path, str | None, bool]]:
        """(folder, its class or None, whether it is of the test set): class folders by name, the unlabelled one last."""
        of = class_folders(self.path, self.unlabelled, self.classes or (), both=True)
        found = [(one.folder, one.class_name, one.split == TEST) for one in of.folders]
        return [*found, (self.path / self.unlabelled, None, False)]

    def passed_over(self) -> tuple[str, ...]:
        """What lies in the folder and is not used, in words."""
        of = class_folders(self.path, self.unlabelled, self.classes or (), both=True)
        folders = (*(one.folder for one in of.folders), self.path / self.unlabelled)
        files = (file for folder in folders for file in list_files(folder, self.pattern))
        return (
            *of.passed_over,
            *described(file for file in files if file.suffix.lower() not in endings()),
            *self.loose(self.path),
        )

    @staticmethod
    def loose(root: Path) -> list[str]:
        """Images that lie directly in `root`, in words."""
        n = n_loose(root)
        return [f"{n:,} image{'s' * (n > 1)} outside of any folder"] if n else []

    def named_classes(self) -> tuple[str, ...]:
        """`classes`, or else the names of the class folders, empty ones too, sorted.

        Raises DataError for fewer than two, and for a class folder that is none of `classes`.
        """
        folders = sorted({name for _, name, _ in self.places() if name is not None})
        classes = tuple(self.classes or folders)
        if len(classes) < 2:
            raise DataError(
                f"Expected two or more classes for the photos in {self.path}, got {classes[0] if classes else 'none'}; make a folder for each "
                f"beside {self.unlabelled}/ (it may be empty), or name them, as in 'dataset.classes=[good,defect]'."
            )
        foreign = [name for name in folders if name not in classes]
        if foreign:
            raise DataError(
                f"Expected the class folders in {self.path} to be among dataset.classes ({', '.join(classes)}), got {foreign[0]}; "
                "add it there, or rename the folder."
            )
        return classes

    def listing(self) -> list[Photo]:
        """All current photos, labelled ones first, by path; files that vanish meanwhile are skipped."""
        root = self.path
        photos = []
        for folder, class_name, is_test in self.places():
            for file in list_files(folder, self.pattern):
                if file.suffix.lower() not in endings():
                    continue
                try:
                    stat = file.stat()
                except FileNotFoundError:
                    continue
                name = file.relative_to(root).as_posix()
                photos.append(Photo(name, class_name, is_test, stat.st_size, stat.st_mtime_ns))
        return photos

    def shape(self, photos: Sequence[Photo]) -> tuple[int, int, int]:
        """(channels, height, width) of the arrays that all photos become. Raises DataError as `decode_files` does, but for broken files."""
        return common_shape(self._files(photos), self.size, self.channels, {}, skip_broken=True)

    def warn_of_losses(self, data: Data) -> Data:
        """The same data, after warnings of pixels and grey levels that decoding loses, if it does."""
        if data.root is not None:
            files = [data.root / name for name in data.pool.names or ()]
            sized = self.size_warning and self.size != "auto"
            for lost in (
                lost_pixels(files, data.pool.shape) if sized else None,
                None if self.white else shallow(files, grows=bool(data.grown)),
            ):
                if lost is not None:
                    logging.getLogger("alframe").warning("%s: %s", self.name, lost)
        return data

    @property
    def fixed_white(self) -> int:
        """`white` as a number. Raises ConfigError for auto."""
        if self.white == "auto":
            raise ConfigError(
                "Expected a number for dataset.white with a growing pool, got auto; 12-bit cameras end at 4095, 10-bit ones at 1023."
            )
        return WHITE if self.white is None else self.white

    def _files(self, photos: Sequence[Photo]) -> list[Path]:
        root = self.path
        return [root / photo.name for photo in photos]

    def digests(self, photos: Sequence[Photo]) -> Iterator[tuple[Photo, str | None]]:
        """Each with a hash of its file's bytes, or None where it cannot be read."""
        files = self._files(photos)
        outcomes = attempts(files, lambda i: file_digest(files[i]))
        yield from zip(photos, (digest for digest, _ in outcomes), strict=True)

    def decoded(
        self, photos: Sequence[Photo], shape: tuple[int, int, int]
    ) -> Iterator[tuple[Photo, tuple[np.ndarray, str] | None, str]]:
        """Each with its pixels uint8 [c, h, w] and the hash of its file, or None and why it cannot be read."""
        files, white = self._files(photos), self.fixed_white

        def work(i: int) -> tuple[np.ndarray, str]:
            digest, head = file_digest(files[i]), read_head(files[i]) if self.size is None else None
            if head is not None and (head.height, head.width) != shape[1:]:
                others = f"{shape[1]}x{shape[2]}"
                raise ValueError(f"{head.height}x{head.width} pixels, but the others have {others}; set dataset.size")
            pixels, stat = decode_file(files[i], shape, white), files[i].stat()
            if (stat.st_size, stat.st_mtime_ns) != (photos[i].size, photos[i].mtime_ns):
                raise ValueError("still being written")
            return pixels, digest

        outcomes = zip(photos, attempts(files, work), strict=True)
        for photo, (result, why) in progress(outcomes, "decoding photos", len(files), len(files) > PROGRESS_FROM):
            yield photo, result, why


def file_digest(file: Path) -> str:
    """A hash of the bytes of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
