"""Any folder of images with one subfolder per class."""

import logging
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from filelock import FileLock

from alframe.dataset.cache import cache_folder, part
from alframe.dataset.decode import POLICY
from alframe.dataset.files import FOLDERS, TEST, Files, existing_folder, files_of_classes, list_classes
from alframe.dataset.growing import Growing
from alframe.dataset.normal import with_normal
from alframe.dataset.photos import PhotoFolder
from alframe.errors import DataError, RunFolderError, expect
from alframe.images import Data

WHAT = "a folder with a subfolder of images for each class (or with train/<class> and test/<class>)"
LATER = ("root", "normalization", "augmentation", "how_to_get", "normal", "size_warning")
"""Options that do not affect decoded images, and the root, which is in the cache key as the source."""


@dataclass(frozen=True)
class ImageFolder(PhotoFolder):
    """Image files of any size, one subfolder per class, as uint8 [n, c, size, size]; classes are sorted by name.

    Two layouts. `root`/<class>/...: `test_share` of each class is the test set. `root`/train/<class>/...: the images of train
    and val (valid, validation) are the pool, because validation labels are bought too; those of test are the test set, or
    `test_share` without a test folder. Groups: 0 train, 1 val, 2 test in that layout, else None. `pattern` filters files
    ("**/*.jpg"). `channels` null uses the count that all files have. `classes` sets the order of the classes. `skip_broken`
    skips unreadable files and reports how many. `how_to_get` ends the message about a missing root. Raises DataError for a missing
    root, empty class folders, fewer than two classes, classes that only test has, and files that do not decode to one shape.

    With `root`/`unlabelled`/... beside either layout, people label those photos. Images in class folders are labelled
    already: the test set (test/<class>, else `test_share` of them) and training images. There may be none, and class
    folders may be empty, or missing if `classes` names them. A run rescans the folder before every round (`growing.py`).
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(bool(self.name), "Expected dataset.name to be a word, got an empty one.")
        expect(
            bool(self.pattern), "Expected dataset.pattern to be a pattern of paths such as **/*.jpg, got an empty one."
        )
        expect(bool(self.unlabelled), "Expected dataset.unlabelled to be the name of a folder, got an empty one.")
        expect(
            self.classes is None or len(set(self.classes)) == len(self.classes),
            f"Expected different names in dataset.classes, got {self.classes}.",
        )

    def load(self, cache: Path) -> Data:
        root = existing_folder(self.root, WHAT, self.how_to_get).resolve()
        if self.grows:
            return self._load_growing(cache)
        # a folder `train` with images directly in it is a class named train
        is_parted = (root / "train").is_dir() and bool(list_classes(root / "train"))
        files = (_parted if is_parted else _flat)(root, self.pattern, self.classes)
        images = files.load(cache, self.name, size=self.size, channels=self.channels, skip_broken=self.skip_broken)
        lost = sorted(set(np.unique(files.labels)) - set(np.unique(images.labels)))
        if lost:
            name = files.classes[lost[0]]
            raise DataError(
                f"Expected a readable image in each class folder, got none for {name}; fix or remove the folder."
            )
        if images.groups is not None and TEST in images.groups:
            is_test = images.groups == TEST
            pool, test = self.limit(part(images, np.flatnonzero(~is_test)), part(images, np.flatnonzero(is_test)))
        else:
            strata = images.labels if images.groups is None else images.labels * TEST + images.groups
            pool, test = self.divide(images, strata, self.test_share)
        data = Data(self.name, pool, test, self.augmentation, self.normalization, root)
        return self.warn_of_lost_pixels(with_normal(data, self.normal))

    @property
    def grows(self) -> bool:
        """Whether there is a folder of unlabelled photos, into which more may come."""
        return self.root is not None and (Path(self.root).expanduser() / self.unlabelled).is_dir()

    def growing(self, folder: Path, *, repair: bool = True) -> Growing:
        """The history of the pool, kept in `folder`. Reads nothing of the photos. Raises ConfigError for options of a fixed pool."""
        for option, value in (("pool_size", self.pool_size), ("test_size", self.test_size)):
            expect(
                value is None,
                f"Expected dataset.{option}=null for a growing pool, got {value}; remove photos from the folder instead.",
            )
        return Growing(folder, self, repair=repair)

    def _load_growing(self, cache: Path) -> Data:
        """The current photos, and those of earlier calls. A run has its own history, by rounds."""
        parameters = {"policy": POLICY} | {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LATER}
        folder = cache_folder(cache, self.name, parameters, str(self.root))
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            try:
                growing = self.growing(folder)
            except RunFolderError:  # damaged: anything in the cache can be rebuilt
                shutil.rmtree(folder)
                growing = self.growing(folder)
            growing.refresh(0, again=True)
            for note in growing.notes()[1:]:
                logging.getLogger("alframe").warning("%s: %s", self.name, note)
            return growing.data()


def _flat(root: Path, pattern: str, named: list[str] | None) -> Files:
    classes = _expect_two(_named(list_classes(root), named, root), root)
    found = files_of_classes(root, classes, pattern)
    labels = np.array([classes.index(name) for _, name in found], dtype=np.int64)
    return Files(root, tuple(file for file, _ in found), labels, tuple(classes))


def _parted(root: Path, pattern: str, named: list[str] | None) -> Files:
    of_folder = {folder: list_classes(root / folder) for folder in FOLDERS if (root / folder).is_dir()}
    found_classes = {name for folder, names in of_folder.items() if FOLDERS[folder] != TEST for name in names}
    classes = _named(sorted(found_classes), named, root)
    _expect_two(classes, root / "train")
    foreign = sorted(set(of_folder.get("test", [])) - set(classes))
    if foreign:
        raise DataError(
            f"Expected the classes of {root / 'test'} to be among {', '.join(classes)}, got {foreign[0]}; "
            f"add {root / 'train' / foreign[0]} or remove the folder."
        )
    found = [
        (file, classes.index(name), FOLDERS[folder])
        for folder, names in of_folder.items()
        for file, name in files_of_classes(root / folder, names, pattern)
    ]
    files, labels, groups = zip(*found, strict=True)
    return Files(root, files, np.array(labels, np.int64), tuple(classes), np.array(groups, np.int64))


def _named(folders: list[str], named: list[str] | None, root: Path) -> list[str]:
    """The classes in the order of `named`, if that is given; it must name each of the `folders` and no other."""
    if named is not None and set(folders) != set(named):
        apart = sorted(set(folders) ^ set(named))[0]
        raise DataError(
            f"Expected dataset.classes ({', '.join(named)}) to be the class folders of {root}, got {', '.join(folders) or 'none'}; "
            f"add or remove {apart}."
        )
    return folders if named is None else list(named)


def _expect_two(classes: list[str], root: Path) -> list[str]:
    if len(classes) < 2:
        got = f"only {classes[0]}" if classes else "none"
        raise DataError(
            f"Expected a folder for each of two or more classes in {root}, got {got}; sort the images into folders."
        )
    return classes
