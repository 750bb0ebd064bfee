"""Pools in which some images show none of the classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from alframe.dataset.base import Dataset
from alframe.dataset.shift.base import Shift, filled_pixels
from alframe.errors import ConfigError, expect
from alframe.images import NO_CLASS, ImageSet, rows_at_once
from alframe.part import Change, moved
from alframe.rng import generator

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601, as Pillow makes grey of colours


@dataclass(frozen=True)
class OutOfDistribution(Shift):
    """Images from the pool of `source` are appended to the pool, so that they make up `share` of it.

    They are drawn at random, and brought to the pool's shape and channels. They have no class: an oracle has no label for them, so
    they are bought but not usable. Initial sets skip them unless random. Groups: one more than the pool's; names: their source.
    Raises ConfigError for a share outside [0, 1) or a source with too few images.

    Source: the setting of Kothawade et al. 2021 (SIMILAR), arXiv:2107.00717. Differs: two datasets, where theirs are some classes
    of one.
    """

    source: Dataset
    share: float = 0.5
    seed: int = 0

    title: ClassVar[str] = "out-of-distribution images"
    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"source.root": moved}

    def __post_init__(self) -> None:
        expect(
            0 <= self.share < 1,
            f"Expected shift.share from 0 up to but not including 1, as a share of the pool, got {self.share}.",
        )

    def pool(self, pool: ImageSet, cache: Path) -> ImageSet:
        others = self.source.load(cache)
        n, n_others = len(pool), round(len(pool) * self.share / (1 - self.share))
        if n_others > len(others.pool):
            raise ConfigError(
                f"Expected enough images of {others.name} for shift.share={self.share}, got {len(others.pool)} where {n_others} are needed; "
                "lower shift.share or dataset.pool_size, or choose a larger dataset with dataset@shift.source."
            )
        drawn = torch.randperm(len(others.pool), generator=generator(self.seed, 0, "shift/others"))[:n_others].numpy()
        names = others.pool.names or range(len(others.pool))
        key = {"source": others.pool.content_hash, "share": self.share, "seed": self.seed}

        def fill(pixels: np.ndarray) -> None:
            for at, images, rows in ((0, pool, np.arange(n)), (n, others.pool, drawn)):
                step = rows_at_once(images.pixels)
                for start in range(0, len(rows), step):
                    block = torch.from_numpy(np.array(images.pixels[rows[start : start + step]]))
                    pixels[at + start : at + start + len(block)] = in_shape(block, pool.shape).numpy()

        return ImageSet(
            filled_pixels((n + n_others, *pool.shape), fill, pool, {"out_of_distribution": key}, cache),
            np.concatenate([pool.labels, np.full(n_others, NO_CLASS)]),
            pool.classes,
            None
            if pool.groups is None
            else np.concatenate([pool.groups, np.full(n_others, pool.groups.max(initial=-1) + 1)]),
            None if pool.names is None else (*pool.names, *(f"{others.name}/{names[i]}" for i in drawn.tolist())),
        )


def in_shape(images: UInt8[Tensor, "b c h w"], shape: tuple[int, ...]) -> UInt8[Tensor, "b d i j"]:
    """Images stretched to `shape` (channels, height, width; bilinear, antialiased), in grey or in colour as it says."""
    if images.shape[1:] == shape:
        return images
    x = images.float()
    if x.shape[1] == 3 and shape[0] == 1:
        x = (x * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    if x.shape[2:] != shape[1:]:
        x = F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True)
    return x.expand(-1, shape[0], -1, -1).round().clamp(0, 255).to(torch.uint8)
