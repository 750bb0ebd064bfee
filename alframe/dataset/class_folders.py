"""Which folders hold the images of which class, and of which part (training, validation, test), as people lay them out."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from alframe.dataset.decode import endings
from alframe.dataset.splits import TEST, TRAIN, split_of
from alframe.dataset.walk import is_junk, list_files, list_folders
from alframe.errors import DataError
from alframe.names import printable


@dataclass(frozen=True)
class ClassFolder:
    """A folder with images of one class; `split` is TRAIN, VALIDATION or TEST, `part` the folder that says so ("" for none)."""

    folder: Path
    class_name: str
    split: int
    part: str = ""


@dataclass(frozen=True)
class ClassFolders:
    """The class folders below `root`, and in words what lies beside them and is not used."""

    root: Path
    folders: tuple[ClassFolder, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def has_parts(self) -> bool:
        """Whether folders such as train/ and test/ say what is for what."""
        return any(one.part for one in self.folders)

    @property
    def test_parts(self) -> list[str]:
        """The names of the folders with test images."""
        return list(dict.fromkeys(one.part for one in self.folders if one.split == TEST))

    def classes(self, *splits: int) -> list[str]:
        """The names of the classes, sorted; of those parts alone, if some are given."""
        return sorted({one.class_name for one in self.folders if not splits or one.split in splits})


def class_folders(root: Path, apart: str = "", named: Collection[str] = (), *, both: bool = False) -> ClassFolders:
    """The class folders in `root`, without the folder called `apart`.

    A folder with a name such as Training or test_set (`splits.split_of`) is a part of the data with class folders of its own,
    unless the classes `named` have it, or it is a folder called train without class folders beside a single other one; other
    parts without class folders are passed over. Other folders are classes; beside a part
    for training they are passed over, but for `both`. Raises DataError if there are parts but no class.
    """
    names = [name for name in list_folders(root) if name != apart]
    splits = {name: split for name in names if name not in named and (split := split_of(name)) is not None}
    inside = {name: list_folders(root / name) for name in splits}
    ours = [name for name in names if name not in splits]
    if len(ours) == 1 and [*splits.values()] == [TRAIN] and not list_folders(root / next(iter(splits))):
        splits = {}  # trains and trams
    parts = sorted((name for name in splits if inside[name]), key=lambda name: (splits[name], name))
    found = [
        ClassFolder(root / part / name, printable(name), splits[part], part) for part in parts for name in inside[part]
    ]
    others = [name for name in names if name not in splits]
    trains = any(splits[part] != TEST for part in parts)
    passed = [f"{name}/ (no class folders in it, {_counted(root / name)})" for name in splits if not inside[name]]
    if not trains or both:
        found = [ClassFolder(root / name, printable(name), TRAIN) for name in others] + found
    else:
        passed += [f"{name}/ (beside {parts[0]}/)" for name in others]
    if splits and not any(one.split != TEST for one in found) and not apart:
        raise DataError(
            f"Expected class folders in {root}, or in a folder for training there such as train/, got only {', '.join(splits)}; sort the "
            "images into a folder for each class, as in train/good and train/defect (or name classes that are called so in dataset.classes)."
        )
    return ClassFolders(root, tuple(found), tuple(passed))


def n_loose(folder: Path) -> int:
    """How many images lie directly in `folder`."""
    return sum(
        file.is_file() and not is_junk(file.name) and file.suffix.lower() in endings() for file in folder.iterdir()
    )


def _counted(folder: Path) -> str:
    n = sum(file.suffix.lower() in endings() for file in list_files(folder))
    return f"{n:,} image{'s' * (n != 1)}"
