"""A synthetic dataset that needs no files: surfaces, some of them scratched, dented, stained or cracked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from alframe.dataset.augment import SURFACE
from alframe.dataset.base import Dataset
from alframe.dataset.cache import Allocate, cached
from alframe.dataset.normal import Normal, with_normal
from alframe.dataset.surfaces import DRAWING, KINDS, draw
from alframe.errors import expect
from alframe.images import Augment, Data, ImageSet
from alframe.rng import generator

CHUNK = 100  # images drawn at once, from a stream of their own, so that a larger set begins with the smaller one


@dataclass(frozen=True)
class Defects(Dataset):
    """Procedurally drawn RGB surfaces, uint8 [n, 3, size, size]: brushed, turned, cast and painted metal and cloth, unevenly lit.

    `pool_size` images that may be labelled and `test_size` others are drawn from separate streams of `seed`. The share
    `defect_rate` of each carries one defect of `kinds` (in equal numbers), `contrast` times as strong as usual. Dust, reflexes and
    seams occur on good and defective surfaces alike, so that neither brightness nor a dark line gives a defect away.
    `task`: "binary" (good, defective) or "kind" (good, and each of `kinds`). Groups: the five materials. Pixels may differ between
    kinds of processor and versions of torch. Raises ConfigError for empty, unknown or repeated `kinds`, and sizes and rates out of range.
    """

    size: int = 64
    pool_size: int = 1100
    test_size: int = 1000
    defect_rate: float = 0.2
    contrast: float = 1.0
    kinds: list[str] = field(default_factory=lambda: list(KINDS))
    task: Literal["binary", "kind"] = "binary"
    seed: int = 0
    normalization: Literal["pool", "image"] = "pool"
    augmentation: Augment | None = SURFACE
    normal: Normal = None

    added_options: ClassVar[Mapping[str, Any]] = {"normal": None}

    def __post_init__(self) -> None:
        expect(self.size >= 16, f"Expected dataset.size of at least 16 pixels, got {self.size}.")
        expect(self.pool_size >= 1, f"Expected dataset.pool_size of at least 1 image, got {self.pool_size}.")
        expect(self.test_size >= 1, f"Expected dataset.test_size of at least 1 image, got {self.test_size}.")
        expect(0 < self.defect_rate < 1, f"Expected dataset.defect_rate between 0 and 1, got {self.defect_rate}.")
        expect(self.contrast > 0, f"Expected dataset.contrast above 0, got {self.contrast}.")
        expect(
            bool(self.kinds) and set(self.kinds) <= set(KINDS) and len(set(self.kinds)) == len(self.kinds),
            f"Expected dataset.kinds to be one or more different kinds out of {', '.join(KINDS)}, got {self.kinds}.",
        )

    def load(self, cache: Path) -> Data:
        pool = self._images(cache, "pool", self.pool_size)
        test = self._images(cache, "test", self.test_size)
        return with_normal(Data("defects", pool, test, self.augmentation, self.normalization), self.normal, known=(0,))

    def _images(self, cache: Path, share: str, n: int) -> ImageSet:
        def build(allocate: Allocate) -> tuple[ImageSet, tuple[str, ...]]:
            pixels = allocate((n, 3, self.size, self.size))
            labels, materials = np.empty(n, np.int64), np.empty(n, np.int64)
            for chunk, start in enumerate(range(0, n, CHUNK)):
                stream = generator(self.seed, chunk, f"defects/{share}")
                kind = self._kinds(chunk, stream)
                drawn, material = draw(kind, self.kinds, self.size, self.contrast, stream)
                for store, values in zip((pixels, labels, materials), (drawn, kind, material), strict=True):
                    store[start : start + CHUNK] = values[: n - start].numpy()
            if self.task == "binary":
                labels = np.minimum(labels, 1)
            return ImageSet(pixels, labels, classes, groups=materials), ()

        classes = ("good", "defective") if self.task == "binary" else ("good", *self.kinds)
        parameters = {k: getattr(self, k) for k in ("size", "defect_rate", "contrast", "kinds", "task", "seed")}
        return cached(cache, f"defects-{share}", parameters | {"n": n}, f"{DRAWING}/{torch.__version__}", build)

    def _kinds(self, chunk: int, stream: torch.Generator) -> Tensor:
        """0 for good, else 1 + the place in `kinds`. Rate and equal numbers hold over any run of chunks; the order is random."""
        first, last = (math.floor(c * CHUNK * self.defect_rate + 0.5) for c in (chunk, chunk + 1))
        kind = torch.zeros(CHUNK, dtype=torch.long)
        kind[: last - first] = torch.arange(first, last) % len(self.kinds) + 1
        return kind[torch.randperm(CHUNK, generator=stream)]
