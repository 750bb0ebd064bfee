"""Pools in which every image occurs more than once."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from alframe.dataset.shift.base import Shift, filled_pixels
from alframe.errors import expect
from alframe.images import ImageSet, rows_at_once
from alframe.pixels import moments
from alframe.rng import derive_seed


@dataclass(frozen=True)
class Duplicates(Shift):
    """The pool `copies` times, one after another: image i has its copies at i + n, i + 2 n, ...

    Gaussian noise is added to every copy, the first one too: `noise` is its deviation in deviations of the pool's pixels (of each
    channel); 0 gives exact copies. Labels, groups and names are repeated. Raises ConfigError for `copies` below 1 or negative `noise`.

    Source: Repeated-MNIST of Kirsch et al. 2019, arXiv:1906.08158: three copies and deviation 0.1; noise on the first copy as in
    the authors' code (BlackHC/BatchBALD, src/dataset_enum.py). Differs: pixels stay whole numbers from 0 to 255, so that noise is
    rounded, and cut off at black and white: on the black ground of a digit half of it is lost.
    """

    copies: int = 3
    noise: float = 0.1
    seed: int = 0

    title: ClassVar[str] = "duplicates"

    def __post_init__(self) -> None:
        expect(
            self.copies >= 1, f"Expected shift.copies of at least 1, got {self.copies}; 3 is each image three times."
        )
        expect(self.noise >= 0, f"Expected shift.noise of at least 0, got {self.noise}; 0 gives exact copies.")

    def pool(self, pool: ImageSet, cache: Path) -> ImageSet:
        n = len(pool)
        key = {"copies": self.copies, "noise": self.noise, "seed": self.seed}

        def fill(pixels: np.ndarray) -> None:
            deviation = np.float32(self.noise) * moments(pool.pixels, (0, 2, 3))[1].astype(np.float32)[:, None, None]
            step = rows_at_once(pool.pixels, 1 << 22)
            for copy in range(self.copies):
                for start in range(0, n, step):
                    rows = np.array(pool.pixels[start : start + step])
                    if self.noise:
                        # numpy's normal numbers are the same on every processor, torch's are not
                        stream = np.random.default_rng(derive_seed(self.seed, 0, f"shift/copy {copy} from {start}"))
                        noisy = rows + stream.standard_normal(rows.shape, dtype=np.float32) * deviation
                        rows = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
                    pixels[copy * n + start : copy * n + start + len(rows)] = rows

        return ImageSet(
            filled_pixels((self.copies * n, *pool.shape), fill, pool, {"duplicates": key}, cache),
            np.tile(pool.labels, self.copies),
            pool.classes,
            None if pool.groups is None else np.tile(pool.groups, self.copies),
            None if pool.names is None else pool.names * self.copies,
        )
