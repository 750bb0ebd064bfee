"""Fixed, seeded, stratified splits into pool and test images."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Int

from alframe.dataset.base import Dataset
from alframe.dataset.cache import part
from alframe.dataset.normal import Normal
from alframe.errors import ConfigError, expect
from alframe.images import ImageSet
from alframe.part import constructor_defaults
from alframe.rng import generator

RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "size": (
        lambda n: n == "auto" or (n >= 1 if isinstance(n, int) else len(n) == 2 and min(n) >= 1),
        "of at least 1 pixel, [height, width], auto, or null to keep sizes",
    ),
    "test_share": (lambda share: 0 < share < 1, "between 0 and 1"),
    "pool_size": (lambda n: n >= 1, "of at least 1 image, or null for all"),
    "test_size": (lambda n: n >= 1, "of at least 1 image, or null for all"),
}
"""Of options that datasets share."""


@dataclass(frozen=True, kw_only=True)
class Sampled(Dataset):
    """What the datasets read from files share. Raises `ConfigError` for an option outside `RANGES`.

    `pool_size` and `test_size` keep so many images, stratified and fixed by `split_seed`, as is a division into pool and test set.
    `normal`: the classes that are no defects ("guess": by well-known words in their names; null: what the dataset knows).
    """

    pool_size: int | None = None
    test_size: int | None = None
    split_seed: int = 0
    normalization: Literal["pool", "image"] = "pool"
    normal: Normal = None

    added_options: ClassVar[Mapping[str, Any]] = {"normal": None}

    @classmethod
    def study(cls, options: Mapping[str, Any]) -> str | None:
        """The last name of where the images lie, unless the options are those of one published dataset, with its own name."""
        if not options.get("root") or options.get("name") != constructor_defaults(cls).get("name"):
            return None
        path = Path(options["root"]).expanduser().resolve()
        return (path.stem if path.is_file() else path.name) or None

    def __post_init__(self) -> None:
        for option, (fits, constraint) in RANGES.items():
            value = vars(self).get(option)
            expect(value is None or fits(value), f"Expected dataset.{option} {constraint}, got {value}.")

    def divide(self, images: ImageSet, strata: Int[np.ndarray, " n"], test_share: float) -> tuple[ImageSet, ImageSet]:
        """Pool and test images: a stratified split, of which `pool_size` and `test_size` images are kept."""
        pool, test = stratified_split(strata, test_share, self.split_seed)
        pool = pool[_limit(strata[pool], self.pool_size, "pool_size", self.split_seed)]
        test = test[_limit(strata[test], self.test_size, "test_size", self.split_seed)]
        return part(images, pool), part(images, test)

    def limit(self, pool: ImageSet, test: ImageSet) -> tuple[ImageSet, ImageSet]:
        """Of a given division, what is kept, stratified by label. Raises ConfigError if there are fewer images."""
        kept = _limit(pool.labels, self.pool_size, "pool_size", self.split_seed)
        return part(pool, kept), part(test, _limit(test.labels, self.test_size, "test_size", self.split_seed))


def stratified_split(
    strata: Int[np.ndarray, " n"], share: float, seed: int
) -> tuple[Int[np.ndarray, " rest"], Int[np.ndarray, " part"]]:
    """Indices (ascending) of the rest and of a part of round(share n), at least 1, with each stratum in proportion.

    Every stratum of two or more is in both, as long as the part has room for all of them; a stratum of one stays in the rest.
    Raises ConfigError unless 0 < share < 1.
    """
    expect(0 < share < 1, f"Expected a test share between 0 and 1, got {share}.")
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    total = min(max(round(share * len(strata)), 1), len(strata) - 1)
    sizes = _sizes(counts, total, least=np.minimum(counts - 1, 1), most=counts - 1)
    chosen = _draw(stratum, sizes, seed, "split")
    return np.setdiff1d(np.arange(len(strata)), chosen), chosen


def subsample(strata: Int[np.ndarray, " n"], n: int, seed: int) -> Int[np.ndarray, " k"]:
    """Indices (ascending) of `n` of the images, each stratum in proportion and, where there is room, with at least one image."""
    _, stratum, counts = np.unique(strata, return_inverse=True, return_counts=True)
    return _draw(stratum, _sizes(counts, n, least=np.ones_like(counts), most=counts), seed, "subsample")


def _limit(strata: np.ndarray, n: int | None, option: str, seed: int) -> np.ndarray:
    if n is None:
        return np.arange(len(strata))
    if n > len(strata):
        raise ConfigError(f"Expected dataset.{option} of at most {len(strata)} (all there are), got {n}.")
    return subsample(strata, n, seed)


def _sizes(counts: np.ndarray, total: int, least: np.ndarray, most: np.ndarray) -> np.ndarray:
    """How many to take of each stratum: in proportion, within the bounds as far as `total` allows, by largest remainder."""
    exact = counts * (total / counts.sum())
    sizes = np.clip(np.floor(exact).astype(np.int64), least, most)
    for low, high in ((least, most), (np.zeros_like(counts), counts)):  # the bounds give way where `total` asks for it
        while sizes.sum() < total and (sizes < high).any():
            sizes[np.where(sizes < high, exact - sizes, -np.inf).argmax()] += 1
        while sizes.sum() > total and (sizes > low).any():
            sizes[np.where(sizes > low, sizes - exact, -np.inf).argmax()] -= 1
    return sizes


def _draw(stratum: np.ndarray, sizes: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    stream = generator(seed, 0, purpose)
    chosen = []
    for number, size in enumerate(sizes):
        members = np.flatnonzero(stratum == number)
        chosen.append(members[torch.randperm(len(members), generator=stream)[:size].numpy()])
    return np.sort(np.concatenate(chosen))
