"""Image files that a table lists: a CSV file of paths and labels, or the same columns from Python."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from alframe.dataset.augment import Augmentation
from alframe.dataset.cache import default_cache, fingerprint, part
from alframe.dataset.decode import Size
from alframe.dataset.files import Files
from alframe.dataset.normal import GUESS, Normal, with_normal
from alframe.dataset.split import Sampled, stratified_split
from alframe.dataset.splits import TEST, split_of
from alframe.errors import DataError, did_you_mean
from alframe.images import UNKNOWN, Augment, Data
from alframe.part import Change, moved

AUGMENTATION = Augmentation(flip=True, vertical_flip=False, crop=8, brightness=0.1)
PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABELS = ("label", "class", "class_name", "classname", "category", "target", "answer", "y")
SPLITS = ("split", "set", "subset", "fold", "partition")
HOW = "give a CSV file with a column of paths and one of labels: dataset.root=photos.csv"
MAX_NAMED = 20
Row = tuple[str, str, str]
"""Path, label (empty: unlabelled) and split (empty: none) as in the table."""


@dataclass(frozen=True)
class Table(Sampled):
    """The image files in the rows of a CSV file, as uint8 [n, c, h, w]; separators and encodings as spreadsheets write them.

    Columns are found by common names (`path`, `label`, `split`), or named. Paths are relative to `folder`, null: that of the table.
    Rows whose split is test are the test set, the others the pool; without such rows `test_share` of each class. Rows without a
    label are for people; the labels of the others are known from the start then. `classes` sets their order. Raises DataError
    for a missing table, column or file, a path that stands twice, fewer than two classes, and files that cannot be decoded.
    """

    root: str | Path | None = None
    folder: str | Path | None = None
    name: str = "table"
    path_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    size: Size = 128
    channels: Literal[1, 3] | None = None
    classes: list[str] | None = None
    skip_broken: bool = False
    test_share: float = 0.25
    augmentation: Augment | None = AUGMENTATION
    normal: Normal = field(default=GUESS, kw_only=True)

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved, "folder": moved}

    def load(self, cache: Path) -> Data:
        if self.root is None or not Path(self.root).expanduser().is_file():
            what = "null" if self.root is None else f"{self.root}, which is no file"
            raise DataError(f"Expected dataset.root to be a table of images, got {what}; {HOW}.")
        path = Path(self.root).expanduser().resolve()
        names, records = _read(path)
        columns = [
            _column(names, self.path_column, PATHS, "path_column", path),
            _column(names, self.label_column, LABELS, "label_column", path),
            _column(names, self.split_column, SPLITS, "split_column", path, needed=False),
        ]
        rows = [tuple("" if at is None else record[at].strip() for at in columns) for record in records]
        return self.of_rows(rows, Path(self.folder).expanduser() if self.folder else path.parent, cache, str(path))  # type: ignore[arg-type]

    def of_rows(self, rows: Sequence[Row], folder: Path, cache: Path, table: str) -> Data:
        """The data of these rows. `table` is what messages call their source."""
        files = _existing([folder / path for path, _, _ in rows], table)
        classes = self._classes([label for _, label, _ in rows], table)
        labels = np.array([classes.index(label) if label else UNKNOWN for _, label, _ in rows], dtype=np.int64)
        splits = np.array([_split(split, table) == TEST for _, _, split in rows])
        root = Path(os.path.commonpath([file.parent for file in files]))
        listed = Files(root, tuple(files), labels, tuple(classes), np.where(splits, TEST, 0))
        marks = hashlib.sha256(repr((labels.tolist(), splits.tolist())).encode()).hexdigest()
        source = f"{fingerprint(root, files)} {marks}"  # a corrected label is another set
        images = listed.load(
            cache, self.name, size=self.size, channels=self.channels, skip_broken=self.skip_broken, source=source
        )
        is_test = np.asarray(images.groups) == TEST
        known = np.flatnonzero(images.labels != UNKNOWN)
        if not is_test.any() and len(known) > 1:
            chosen = known[stratified_split(images.labels[known], self.test_share, self.split_seed)[1]]
            is_test = np.isin(np.arange(len(images)), chosen)
        pool, test = self.limit(part(images, np.flatnonzero(~is_test)), part(images, np.flatnonzero(is_test)))
        given = {i: (int(label), 0) for i, label in enumerate(pool.labels) if label != UNKNOWN}
        by_people = len(given) < len(pool)
        data = Data(
            self.name, pool, test, self.augmentation, self.normalization, root, folder_labels=given if by_people else {}
        )
        return with_normal(data, self.normal)

    def _classes(self, labels: Iterable[str], table: str) -> list[str]:
        found = sorted({label for label in labels if label})
        classes = list(self.classes) if self.classes is not None else found
        foreign = [label for label in found if label not in classes]
        if foreign:
            raise DataError(
                f"Expected the labels of {table} to be among dataset.classes ({', '.join(classes)}), got {foreign[0]!r}"
                + did_you_mean(foreign[0], classes, otherwise="; add it there, or correct the row.")
            )
        if len(classes) < 2:
            raise DataError(
                f"Expected two or more classes in {table}, got {classes[0] if classes else 'none'}; label some rows of another "
                "class, or name them, as in 'dataset.classes=[good,defect]'."
            )
        return classes


def from_table(
    table: Any,
    folder: str | Path = ".",
    *,
    path: str = "path",
    label: str = "label",
    split: str | None = None,
    **options: Any,
) -> Data:
    """The data of a table in memory (a pandas DataFrame, or columns by name) whose paths start at `folder`.

    `path`, `label` and `split` name its columns; a label that is missing (None, NaN, "") is for people. `options` are those of
    `dataset=table`. Raises what `Table` does.
    """
    for name in (path, label, *([split] if split else [])):
        if name not in table:
            raise DataError(
                f"Expected a column {name!r} in the table, got {', '.join(map(str, table))}; name it, as in path='file'."
            )
    columns = [[_text(cell) for cell in table[name]] for name in (path, label)]
    splits = [_text(cell) for cell in table[split]] if split else [""] * len(columns[0])
    rows = list(zip(*columns, splits, strict=True))
    return Table(**options).of_rows(rows, Path(folder).expanduser(), default_cache(), "the table")


def _text(cell: Any) -> str:
    missing = cell is None or cell != cell
    return "" if missing else str(cell)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The names of the columns and the rows that are not empty."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
    first = text.split("\n", 1)[0]
    separator = max(",;\t", key=first.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise DataError(f"Expected a table of text in {path}, got one with {error}; {HOW}.") from error
    if not lines:
        raise DataError(f"Expected a table with a row of column names in {path}, got an empty file; {HOW}.")
    names, *rows = lines
    for number, row in enumerate(rows, 2):
        if row and len(row) != len(names):
            raise DataError(
                f"Expected {len(names)} cells in row {number} of {path}, got {len(row)}; quote cells that hold a {separator!r}."
            )
    return [name.strip() for name in names], [row for row in rows if any(cell.strip() for cell in row)]


def _column(
    names: Sequence[str], wanted: str | None, known: Sequence[str], option: str, table: Path, *, needed: bool = True
) -> int | None:
    """The position of a column: by the name that the config gives, else by a common one."""
    lower = [name.casefold() for name in names]
    for name in (wanted,) if wanted is not None else known:
        if name.casefold() in lower:
            return lower.index(name.casefold())
    if wanted is None and not needed:
        return None
    near = did_you_mean(wanted or known[0], names).removeprefix("; did you mean ").strip("'?") or "<one of them>"
    raise DataError(
        f"Expected a column {wanted or known[0]} in {table}, got {', '.join(names)}; set dataset.{option}={near}."
    )


def _split(name: str, table: str) -> int | None:
    if name and split_of(name) is None:
        raise DataError(f"Expected train, validation or test as the split in {table}, got {name!r}; correct the row.")
    return split_of(name) if name else None


def _existing(files: list[Path], table: str) -> list[Path]:
    """The files, absolute. Raises DataError for none, a file that stands twice, and for missing ones, up to twenty by name."""
    if not files:
        raise DataError(f"Expected rows with images in {table}, got none; {HOW}.")
    files = [Path(os.path.abspath(file)) for file in files]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
        raise DataError(
            f"Expected the files of {table} to exist, got {len(missing)} that do not ({', '.join(missing[:MAX_NAMED])}{more}); "
            "correct the paths, or set dataset.folder to where they start."
        )
    twice = next((file for file, before in zip(sorted(files)[1:], sorted(files), strict=False) if file == before), None)
    if twice is not None:
        raise DataError(f"Expected one row for each file in {table}, got several for {twice}; delete the others.")
    return files
