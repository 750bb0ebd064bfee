"""Any folder of images with one subfolder per class."""

import logging
import shutil
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from filelock import FileLock

from alframe.dataset.cache import cache_folder, part
from alframe.dataset.class_folders import ClassFolders, class_folders, n_loose
from alframe.dataset.decode import POLICY, WHITE, accept_pixels, deepest
from alframe.dataset.files import Files, existing_folder, images_in
from alframe.dataset.growing import Growing
from alframe.dataset.normal import with_normal
from alframe.dataset.photos import PhotoFolder
from alframe.dataset.splits import TEST, TRAIN, VALIDATION
from alframe.errors import DataError, RunFolderError, expect
from alframe.images import Data

WHAT = "a folder with a subfolder of images for each class (or with train/<class> and test/<class>)"
LATER = ("root", "normalization", "augmentation", "how_to_get", "normal", "size_warning", "max_pixels")
"""Options that do not affect decoded images, and the root, which is in the cache key as the source."""


@dataclass(frozen=True)
class ImageFolder(PhotoFolder):
    """Image files of any size, one subfolder per class, as uint8 [n, c, size, size]; classes are sorted by name.

    Two layouts. `root`/<class>/...: `test_share` of each class is the test set, or what lies in `root`/test/<class>/....
    `root`/train/<class>/...: the images of train and val are the pool, because validation labels are bought too; those of test
    are the test set, or `test_share` without a test folder. The folders may be spelled otherwise (Training, test_set: see
    `splits`). Groups: 0 train, 1 val, 2 test where there are such folders, else None. `pattern` filters files
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
        expect(
            self.white in (None, "auto") or 1 <= int(self.white) <= WHITE,
            f"Expected dataset.white from 1 to {WHITE}, auto or null, got {self.white}; it is the value that becomes white.",
        )
        expect(
            self.max_pixels is None or self.max_pixels >= 1,
            f"Expected dataset.max_pixels of at least 1, or null, got {self.max_pixels}; it is the most pixels that a file may have.",
        )
        expect(bool(self.unlabelled), "Expected dataset.unlabelled to be the name of a folder, got an empty one.")
        expect(
            self.classes is None or len(set(self.classes)) == len(self.classes),
            f"Expected different names in dataset.classes, got {self.classes}.",
        )

    def load(self, cache: Path) -> Data:
        root = existing_folder(self.root, WHAT, self.how_to_get).resolve()
        accept_pixels(self.max_pixels)
        if self.grows:
            return self._load_growing(cache)
        folders = class_folders(root, named=self.classes or ())
        files = _files(folders, self.pattern, self.classes)
        white = (deepest(files.files) or WHITE) if self.white == "auto" else self.white or WHITE
        if self.white == "auto":
            logging.getLogger("alframe").warning("%s: white is %d, the largest value of all files", self.name, white)
        images = files.load(
            cache, self.name, size=self.size, channels=self.channels, skip_broken=self.skip_broken, white=white
        )
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
        share = f"{100 * self.test_share:g} % of each class, by dataset.test_share"
        data = Data(
            self.name, pool, test, self.augmentation, self.normalization, root,
            test_from=", ".join(f"{part}/" for part in folders.test_parts) or share,
            passed_over=(*folders.passed_over, *self.loose(root)),
        )  # fmt: skip
        return self.warn_of_losses(with_normal(data, self.normal))

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
        accept_pixels(self.max_pixels)
        return Growing(folder, self, repair=repair)

    def _load_growing(self, cache: Path) -> Data:
        """The current photos, and those of earlier calls. A run has its own history, by rounds."""
        parameters = {"policy": POLICY} | {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LATER}
        parameters = {key: value for key, value in parameters.items() if key != "white" or value is not None}
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


def _files(folders: ClassFolders, pattern: str, named: list[str] | None) -> Files:
    root = folders.root
    trained = folders.classes(TRAIN, VALIDATION)
    where = root / next((one.part for one in folders.folders if one.split != TEST), "")
    classes = _expect_two(_named(trained, named, root), where)
    foreign = [one for one in folders.folders if one.split == TEST and one.class_name not in classes]
    if foreign:
        raise DataError(
            f"Expected the classes of {root / foreign[0].part} to be among {', '.join(classes)}, got {foreign[0].class_name}; "
            f"add {where / foreign[0].class_name} or remove the folder."
        )
    found = [
        (file, classes.index(one.class_name), one.split)
        for one in folders.folders
        for file in images_in(one.folder, pattern)
    ]
    files, labels, groups = zip(*found, strict=True)
    parts = np.array(groups, np.int64) if folders.has_parts else None
    return Files(root, files, np.array(labels, np.int64), tuple(classes), parts)


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
        loose = n_loose(root)
        advice = (
            f"sort the {loose:,} images that lie there into folders, or move them to {root / 'unlabelled'} and let people label them"
            if loose
            else "sort the images into folders"
        )
        raise DataError(f"Expected a folder for each of two or more classes in {root}, got {got}; {advice}.")
    return classes
