"""Pools with unequal classes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from alframe.dataset.cache import part
from alframe.dataset.shift.base import Shift
from alframe.errors import ConfigError, did_you_mean, expect
from alframe.images import Data, ImageSet
from alframe.rng import generator


@dataclass(frozen=True)
class Imbalance(Shift):
    """Class c of C keeps f_c times as many images as the first: f_c = ratio^(-c / (C - 1)), or a step from 1 to 1 / ratio.

    The order is that of the classes; of an odd number the larger part is frequent in a step. As many images are kept as the
    pool allows: where its classes are equal, all of the first one. Raises ConfigError where `ratio` is below 1 or would leave a
    class without an image.

    Source: exponential as in Cui et al. 2019, arXiv:1901.05555 (their imbalance factor is `ratio`), step as in Buda et al. 2018,
    arXiv:1710.05381. Differs: pools that are unequal already keep these shares, not these numbers.
    """

    profile: Literal["exponential", "step"] = "exponential"
    ratio: float = 10.0
    seed: int = 0

    title: ClassVar[str] = "imbalance"

    def __post_init__(self) -> None:
        hint = f"write its reciprocal, {1 / self.ratio:g}" if 0 < self.ratio < 1 else "10 is usual"
        expect(
            self.ratio >= 1,
            f"Expected shift.ratio of at least 1 (the largest class to the smallest), got {self.ratio}; {hint}.",
        )

    def pool(self, pool: ImageSet, cache: Path) -> ImageSet:
        place = np.arange(pool.n_classes)
        if self.profile == "exponential":
            factors = self.ratio ** (-place / max(pool.n_classes - 1, 1))
        else:
            factors = np.where(place < (pool.n_classes + 1) // 2, 1.0, 1 / self.ratio)
        return _in_shares(pool, factors, self.seed, f"shift.ratio={self.ratio}")


@dataclass(frozen=True)
class RareClass(Shift):
    """The class or classes `name` make up `share` of the pool; they, and the others, keep their proportions. As many images stay as that allows.

    `name` null is every class that is a defect, or the last class if the normal ones are unknown. Raises ConfigError for a
    share outside (0, 1), a class that is not there, or a share so small that no image of one would be left.
    """

    share: float = 0.02
    name: str | list[str] | None = None
    seed: int = 0

    title: ClassVar[str] = "a rare class"

    def __post_init__(self) -> None:
        expect(0 < self.share < 1, f"Expected shift.share between 0 and 1, as a share of the pool, got {self.share}.")

    def on(self, data: Data) -> "RareClass":
        return replace(self, name=data.named(data.defects)) if self.name is None and data.defects else self

    def pool(self, pool: ImageSet, cache: Path) -> ImageSet:
        names = self.name if isinstance(self.name, list) else [self.name or pool.classes[-1]]
        for name in names:
            if name not in pool.classes:
                hint = did_you_mean(name, pool.classes, otherwise=f"; the classes are {', '.join(pool.classes)}.")
                raise ConfigError(f"Expected a class of the dataset in shift.name, got {name!r}{hint}")
        factors = np.array([np.sum(pool.labels == c) for c in range(pool.n_classes)], dtype=float)
        rare = np.isin(pool.classes, names)
        for some, share in ((rare, self.share), (~rare, 1 - self.share)):
            expect(
                factors[some].sum() > 0,
                f"Expected images of {', '.join(names)} and of other classes in the pool, got none of one; choose another shift.name.",
            )
            factors[some] *= share / factors[some].sum()
        return _in_shares(pool, factors, self.seed, f"shift.share={self.share}")


def class_sizes(counts: Int[np.ndarray, " c"], factors: Float[np.ndarray, " c"]) -> Int[np.ndarray, " c"]:
    """Sizes in proportion to `factors`, rounded down, as large as `counts` allow. A factor of 0 is a class without images."""
    wanted = factors > 0
    scale = (counts[wanted] / factors[wanted]).min()
    # a hair is added so that 5000 * 0.1 is 500 whatever the rounding
    return np.minimum(np.floor(scale * factors + 1e-6).astype(np.int64), counts)


def _in_shares(pool: ImageSet, factors: Float[np.ndarray, " c"], seed: int, option: str) -> ImageSet:
    """The images of a random choice in each class, in their old order; images without a class all stay."""
    counts = np.array([np.sum(pool.labels == c) for c in range(pool.n_classes)])
    sizes = class_sizes(counts, factors)
    empty = [pool.classes[c] for c in np.flatnonzero((sizes == 0) & (factors > 0))]
    expect(
        not empty,
        f"Expected at least one image of every class in the pool, got none of {', '.join(empty)} with {option}; "
        "make the classes less unequal, or the pool larger.",
    )
    kept = [np.flatnonzero(pool.labels < 0)]
    for c, size in enumerate(sizes):
        members = np.flatnonzero(pool.labels == c)
        order = torch.randperm(len(members), generator=generator(seed, 0, f"shift/class {c}")).numpy()
        kept.append(members[order[:size]])
    return part(pool, np.sort(np.concatenate(kept)))
