"""The shift interface: one method. A new shift is a file with such a class, and a YAML in configs/shift."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from alframe.dataset.base import Dataset
from alframe.dataset.cache import IN_MEMORY_BYTES, Allocate, cached
from alframe.errors import expect
from alframe.images import Data, ImageSet
from alframe.part import Part


class Shift(Part, ABC):
    """A modified pool of a dataset. It depends only on the pool and the constructor's arguments, never on the run's seed."""

    title: ClassVar[str]
    """The suffix of the dataset's name, as in 'mnist with duplicates'."""

    def on(self, data: Data) -> "Shift":
        """This shift with the options that depend on the dataset."""
        return self

    @abstractmethod
    def pool(self, pool: ImageSet, cache: Path) -> ImageSet:
        """The pool in the same shape and with the same classes."""


@dataclass(frozen=True)
class Shifted(Dataset):
    """A dataset with a shifted pool."""

    dataset: Dataset
    shift: Shift

    def load(self, cache: Path) -> Data:
        """Raises ConfigError for a growing pool."""
        data = self.dataset.load(cache)
        expect(not data.grown, "Expected shift=none for unlabelled photos, got a shift; shifts are for studies.")
        shift = self.shift.on(data)
        return replace(data, name=f"{data.name} with {shift.title}", pool=shift.pool(data.pool, cache))


def filled_pixels(
    shape: tuple[int, ...], fill: Callable[[np.ndarray], None], like: ImageSet, key: dict[str, object], cache: Path
) -> np.ndarray:
    """Pixels of `shape` (uint8) that `fill` writes: in memory up to 1 GiB, beyond that in a cache folder of their own, mapped.

    `key` says what they are made from beside the images `like`, whose content is part of the folder's name.
    """
    if int(np.prod(shape)) <= IN_MEMORY_BYTES:
        pixels = np.empty(shape, dtype=np.uint8)
        fill(pixels)
        return pixels

    def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
        pixels = allocate(shape)
        fill(pixels)
        return ImageSet(pixels, np.zeros(len(pixels), dtype=np.int64), ("any",)), ()  # only the pixels are used

    return cached(cache, "shifted", key, like.content_hash, build).pixels
