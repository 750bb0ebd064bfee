"""Data sets of Hugging Face's `datasets` on the disk, as `save_to_disk` writes them, or in memory."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from alframe.dataset.arrays import AUGMENTATION
from alframe.dataset.cache import Allocate, cached, fingerprint
from alframe.dataset.items import Item, read_items
from alframe.dataset.normal import GUESS, Normal, with_normal
from alframe.dataset.split import Sampled
from alframe.dataset.splits import TEST, TRAIN, VALIDATION, split_of
from alframe.errors import DataError, did_you_mean
from alframe.images import Augment, Data, ImageSet
from alframe.part import Change, moved

HOW = "save one by dataset.save_to_disk('parts') and set dataset.root=parts"


@dataclass(frozen=True)
class HuggingFace(Sampled):
    """A folder that `datasets` saved: images and labels by column, as uint8 [n, c, h, w].

    `image` and `label` name the columns (null: the only one of that kind). A split that is called test is the test set, else
    validation; without one, `test_share` of each class. Other splits than train and that one are not used, with a warning. `size`: a side, [height, width], or null where all have one size.
    Raises DataError where the package `datasets`, the folder or a column is missing.
    """

    root: str | Path | None = None
    name: str = "hugging_face"
    image: str | None = None
    label: str | None = None
    size: int | list[int] | None = 128
    channels: Literal[1, 3] | None = None
    test_share: float = 0.25
    augmentation: Augment | None = AUGMENTATION
    normal: Normal = field(default=GUESS, kw_only=True)

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved}

    def load(self, cache: Path) -> Data:
        root = Path(self.root or "").expanduser()
        if self.root is None or not root.is_dir():
            raise DataError(f"Expected dataset.root to be a folder of Hugging Face's datasets, got {self.root}; {HOW}.")
        files = [file for file in root.rglob("*") if file.is_file() and not file.name.startswith(("cache-", "."))]
        stamp = fingerprint(root, files)

        def read(whole: Any, which: str) -> ImageSet:
            def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
                return self._images(whole[which], allocate), ()

            options = {
                "split": which,
                "size": self.size,
                "channels": self.channels,
                "columns": [self.image, self.label],
            }
            return cached(cache, self.name, options, stamp, build)

        return self._data(_opened(root), read)

    def of(self, dataset: Any) -> Data:
        """The data of a `Dataset` or `DatasetDict` in memory."""
        return self._data(
            dataset if hasattr(dataset, "keys") else {"train": dataset}, lambda whole, which: self._images(whole[which])
        )

    def _data(self, whole: Any, read: Any) -> Data:
        of = {split_of(name): name for name in reversed(list(whole))}
        train = of.get(TRAIN) or next(iter(whole))
        held = next((of[split] for split in (TEST, VALIDATION) if of.get(split) not in (None, train)), None)
        if left := [name for name in whole if name not in (train, held)]:
            logging.getLogger("alframe").warning("%s: not used: %s", self.name, ", ".join(left))
        pool = read(whole, train)
        if held is None:
            pool, test = self.divide(pool, pool.labels, self.test_share)
        else:
            pool, test = self.limit(pool, read(whole, held))
        return with_normal(Data(self.name, pool, test, self.augmentation, self.normalization), self.normal)

    def _images(self, split: Any, allocate: Allocate | None = None) -> ImageSet:
        image = self._column(split, self.image, "image", "Image")
        label = self._column(split, self.label, "label", "ClassLabel")
        classes = getattr(split.features[label], "names", None)
        item: Item = lambda i: (split[i][image], split[i][label])  # noqa: E731
        return read_items(item, len(split), classes, self.size, self.channels, allocate)

    def _column(self, split: Any, wanted: str | None, usual: str, kind: str) -> str:
        columns = list(split.features)
        of_kind = [name for name in columns if type(split.features[name]).__name__ == kind]
        found = wanted or (of_kind[0] if len(of_kind) == 1 else usual)
        if found not in columns:
            hint = did_you_mean(found, columns, otherwise=f"; set dataset.{usual}=<one of them>.")
            raise DataError(f"Expected a column {found} in the data set, got {', '.join(columns)}{hint}")
        return found


def _opened(root: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "Expected the package datasets for dataset=hugging_face, got none; run pip install datasets."
        ) from error
    try:
        whole = datasets.load_from_disk(str(root))
    except Exception as error:  # of many kinds, by what is missing
        raise DataError(
            f"Expected a folder that datasets saved, got {root} ({str(error).splitlines()[0]}); {HOW}."
        ) from error
    return whole if hasattr(whole, "keys") else {"train": whole}


def from_hugging_face(dataset: Any, **options: Any) -> Data:
    """The data of a Hugging Face `Dataset` or `DatasetDict` (or of a folder that it was saved to); options as of `HuggingFace`."""
    if isinstance(dataset, str | Path):
        from alframe.dataset.cache import default_cache

        return HuggingFace(root=dataset, **options).load(default_cache())
    return HuggingFace(**options).of(dataset)
