"""The one type that every dataset returns, whatever its source."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from alframe.errors import DataError

UNKNOWN, NO_CLASS = -1, -2
"""Labels of unlabelled images, and of images that show none of the classes."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""`augment(images uint8 [b, c, h, w] on any device, CPU generator) -> uint8 [b, c, h, w]`, a separate draw per sample."""


@runtime_checkable
class FixedAugment(Protocol):
    """An augmentation with a separate `draw`, so that one draw can be applied to every image (test-time augmentation)."""

    def draw(self, n: int, rng: torch.Generator) -> Tensor:
        """Random numbers [n, ...] of `n` transformations, on the CPU."""
        ...

    def apply(self, images: Tensor, draws: Tensor) -> Tensor:
        """uint8 [b, c, h, w] under the transformations `draws` [b, ...]."""
        ...


@dataclass(frozen=True)
class FixedAugmentation:
    """One transformation of every image: `augment` under the one `draw` [...]."""

    augment: FixedAugment
    draw: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 [b, c, h, w], all with the same transformation."""
        return self.augment.apply(images, self.draw.expand(len(images), *self.draw.shape))


def rows_at_once(array: np.ndarray, max_bytes: int = 1 << 25) -> int:
    """How many rows of `array` take about `max_bytes`: the chunk size for large sets."""
    return max(1, max_bytes // max(1, int(np.prod(array.shape[1:])) * array.itemsize))


def content_digest(sample: np.ndarray) -> str:
    """Hash of an image's pixels in hexadecimal, the first part of its id."""
    return hashlib.blake2b(np.ascontiguousarray(sample).tobytes(), digest_size=8).hexdigest()


def reserve(file: Path) -> None:
    """Allocate a sparse file's disk space now: a full disk then raises `OSError` instead of a bus error later."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)


def rgb(image: UInt8[np.ndarray, "ch h w"]) -> Image.Image:
    """The first three channels, or the only channel repeated three times."""
    if image.shape[0] == 1:
        return Image.fromarray(image[0]).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(image[:3].transpose(1, 2, 0)))


@dataclass(frozen=True)
class ImageSet:
    """`pixels`: uint8 [n, c, h, w] with c = 1 or 3 (an array or a read-only memory map), or float32 [n, d] cached features.

    `labels`: int64 [n], -1 where unknown, -2 where the image shows none of the classes. `groups`: int64 [n], the stratum
    (cell type, source folder) of each image, or None. `names`: the source of each image (file name), or None.
    """

    pixels: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.pixels) != len(self.labels):
            raise DataError(
                f"Expected one label for each image, got {len(self.pixels)} images and {len(self.labels)} labels."
            )
        if len(self.labels) and not (self.labels.min() >= NO_CLASS and self.labels.max() < len(self.classes)):
            bad = int(np.flatnonzero((self.labels < NO_CLASS) | (self.labels >= len(self.classes)))[0])
            raise DataError(
                f"Expected labels from 0 to {len(self.classes) - 1} ({len(self.classes)} classes), "
                f"got {int(self.labels[bad])} for image {bad}; correct the labels or add the missing class names."
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample: (channels, height, width), or (features,)."""
        return tuple(self.pixels.shape[1:])

    @property
    def n_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def ids(self) -> list[str]:
        """An id per image that survives reordering and renaming: content hash, then an ordinal among duplicates ('9f2c…-0')."""
        seen: dict[str, int] = {}
        ids = []
        for sample in self.pixels:
            digest = content_digest(sample)
            ordinal = seen.get(digest, 0)
            seen[digest] = ordinal + 1
            ids.append(f"{digest}-{ordinal}")
        return ids

    def name(self, row: int) -> str:
        """What an image is called: its file, else its id."""
        return self.ids[row] if self.names is None else self.names[row]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over shape, pixels and labels, in hexadecimal."""
        digest = hashlib.sha256(f"{self.pixels.shape}{self.pixels.dtype}{self.classes}".encode())
        step = rows_at_once(self.pixels)
        for start in range(0, len(self), step):
            digest.update(np.ascontiguousarray(self.pixels[start : start + step]).data)
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()

    @cached_property
    def pixels_hash(self) -> str:
        """SHA-256 over shape and pixels only, by the images' ids: what features depend on."""
        return hashlib.sha256(f"{self.pixels.shape}{self.pixels.dtype}{self.ids}".encode()).hexdigest()

    def rows(self, start: int, end: int) -> "ImageSet":
        """The images in [`start`, `end`), without a copy."""
        return replace(
            self,
            pixels=self.pixels[start:end],
            labels=self.labels[start:end],
            groups=None if self.groups is None else self.groups[start:end],
            names=None if self.names is None else self.names[start:end],
        )

    def take(self, indices: np.ndarray) -> "ImageSet":
        """The images at `indices`, in that order (a copy in memory)."""
        return replace(
            self,
            pixels=np.ascontiguousarray(self.pixels[indices]),
            labels=self.labels[indices],
            groups=None if self.groups is None else self.groups[indices],
            names=None if self.names is None else tuple(self.names[i] for i in indices),
        )


def by_arrival(images: ImageSet, ends: tuple[int, ...], prepare: Callable[[ImageSet], ImageSet]) -> ImageSet:
    """`prepare` applied separately to each batch of arrivals, so that features of a smaller pool are reused from the cache."""
    if len(ends) < 2:
        return prepare(images)
    parts = [prepare(images.rows(start, end)).pixels for start, end in pairwise((0, *ends))]
    return replace(images, pixels=np.concatenate(parts))


@dataclass(frozen=True)
class Data:
    """What `dataset.load(cache)` returns.

    `pool` holds the images that may be labelled (only the oracle sees its labels), `test` the images for evaluation only.
    `augment` preserves this dataset's labels, or is None. `normalization` is "pool" (mean and deviation of the pool's
    pixels, per channel), "image" (of each image) or "none" (the network scales them). `root` is the folder that image
    names are relative to, if they are files.

    For a growing pool: `grown` is its size at the start and after each arrival (empty: a fixed pool), `gone` the indices
    of images whose files were deleted (they are not queried), and `folder_labels` maps an index to the class of its folder
    and the first round that knew it. `files` has the size and modification time (ns) of each file when it was read. The
    labels of such a pool are unknown; the mean and deviation are those of its initial images.

    `test_from` says in words where the test images come from, `passed_over` what lies beside the images and is not used.

    `normal`: the class numbers that are no defects, ascending, or None if unknown; `normal_guessed`: from the class names.
    """

    name: str
    pool: ImageSet
    test: ImageSet
    augment: Augment | None = None
    normalization: str = "pool"
    root: Path | None = None
    grown: tuple[int, ...] = ()
    gone: frozenset[int] = frozenset()
    folder_labels: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    files: tuple[tuple[int, int], ...] = ()
    normal: tuple[int, ...] | None = None
    normal_guessed: bool = False
    test_from: str = ""
    passed_over: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.pool.shape != self.test.shape or self.pool.classes != self.test.classes:
            raise DataError(
                f"Expected pool and test images of the same shape and classes, got {self.pool.shape} {self.pool.classes} "
                f"and {self.test.shape} {self.test.classes}; load both with the same options."
            )
        normal, n_classes = self.normal, self.pool.n_classes
        if normal is not None and not (0 < len({*normal}) < n_classes and {*normal} <= {*range(n_classes)}):
            raise DataError(
                f"Expected normal classes from 0 to {n_classes - 1}, at least one and not all of them, got {normal}; "
                "every other class is a defect."
            )

    @property
    def defects(self) -> tuple[int, ...] | None:
        """The classes that are not normal, ascending; None if unknown. New classes that people name are among them."""
        if self.normal is None:
            return None
        return tuple(c for c in range(self.pool.n_classes) if c not in self.normal)

    def with_normal(self, names: list[str] | None) -> "Data":
        """The same data with the normal classes of these names; None: unknown."""
        normal = None if names is None else tuple(c for c, name in enumerate(self.pool.classes) if name in names)
        return self if normal == self.normal else replace(self, normal=normal, normal_guessed=False)

    def named(self, classes: tuple[int, ...]) -> list[str]:
        """The names of `classes`."""
        return [self.pool.classes[c] for c in classes]

    @property
    def has_pictures(self) -> bool:
        """Whether the samples are images; features cannot be shown."""
        return len(self.pool.shape) == 3

    def original(self, index: int) -> Path | None:
        """The source file of image `index` of the pool, if it still exists and has not been overwritten."""
        if self.root is None or self.pool.names is None:
            return None
        file = Path(self.root) / self.pool.names[index]
        return file if self.shows(file, index) else None

    def shows(self, file: Path, index: int) -> bool:
        """Whether `file` exists and, in a growing pool, still has the size and time that image `index` was read with."""
        if not file.is_file() or not self.files:
            return file.is_file()
        stat = file.stat()
        return (stat.st_size, stat.st_mtime_ns) == self.files[index]

    @property
    def at_start(self) -> "Data":
        """The data with the initial pool."""
        return replace(self, pool=self.pool.rows(0, self.grown[0]), grown=()) if self.grown else self

    @property
    def n_shared(self) -> int:
        """Number of test images that have an exact copy in the pool."""
        pool = {name.rsplit("-", 1)[0] for name in self.pool.ids}
        return sum(name.rsplit("-", 1)[0] in pool for name in self.test.ids)

    @property
    def content_hash(self) -> str:
        """SHA-256 of pool and test together, which identifies the data of a run."""
        return hashlib.sha256(f"{self.pool.content_hash}{self.test.content_hash}".encode()).hexdigest()
