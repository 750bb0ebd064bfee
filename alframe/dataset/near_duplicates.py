"""Test images with an exact or near copy in the pool: re-encoded, brighter, or the same object photographed again.

Each test image is compared on 32 x 32 grey pixels with the pool images of the most similar 8 x 8 thumbnails. A pair is reported
only if it is much closer than its other neighbours, as digits, say, all look alike. Crops and larger shifts are not found.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from alframe.errors import RunFolderError
from alframe.images import Data, ImageSet, rows_at_once
from alframe.record.files import read_json, write_atomically

RULE = 1  # part of the cache's key; raise it when what is found changes
COARSE, FINE = 8, 32
MIN_CORRELATION = 0.97
"""Of the 8 x 8 thumbnails; pairs below it are not compared."""
NEIGHBOURS = 10
MAX_RATIO = 0.3
"""Distance of a copy, relative to the median distance of the nearest `NEIGHBOURS`; below 0.25 for JPEG, brightness, contrast."""
CERTAIN, MAX_DISTANCE = 0.03, 0.25
"""Distances in units of the images' contrast. Below `CERTAIN` a pair is a copy, whatever the other distances."""
MIN_CONTRAST = 2.0  # grey levels, mean absolute deviation: flatter images show only noise
MAX_PAIRS = 2 * 10**10
MAX_NAMED = 5


@dataclass(frozen=True)
class Duplicates:
    """Counts of test images with `exact` and `near` copies in the pool; `looked_at` were searched for near ones.

    `examples`: the closest near pairs, as (test image, pool image, distance), by name where there is one, else by index.
    """

    exact: int
    near: int
    looked_at: int
    examples: list[tuple[str, str, float]]

    def __str__(self) -> str:
        pairs = "; ".join(f"{test} and {pool}" for test, pool, _ in self.examples[:2])
        return (
            f"{self.exact:,} test images have an exact copy in the pool, and {self.near:,} a near copy"
            + (f" (test and pool image {pairs})" if pairs else "")
            + "; test metrics will be optimistic."
        )


def duplicates_of(data: Data, cache: Path) -> Duplicates | None:
    """The duplicates between pool and test set; None for features. Computed once, then cached by the data's content hash."""
    if len(data.pool.shape) != 3:
        return None
    key = hashlib.sha256(f"{RULE}{data.content_hash}".encode()).hexdigest()[:16]
    path = cache / f"near_duplicates-{key}.json"
    known = _stored(path)
    if known is None:
        known = find_duplicates(data)
        write_atomically(path, json.dumps(asdict(known)))
    return known


def find_duplicates(data: Data) -> Duplicates:
    """Time grows with pool x test images, memory with pool + test: about 1.3 kB per image, and 60 MB.

    Above `MAX_PAIRS` pairs, an evenly spaced part of the test images is searched.
    """
    known = {name.rsplit("-", 1)[0] for name in data.pool.ids}
    exact = np.flatnonzero([name.rsplit("-", 1)[0] in known for name in data.test.ids])
    n_looked_at = min(len(data.test), max(1, MAX_PAIRS // len(data.pool)))
    looked_at = np.linspace(0, len(data.test) - 1, n_looked_at).round().astype(np.int64)
    rows = torch.from_numpy(np.setdiff1d(looked_at, exact))
    pool, test = thumbnails(data.pool.pixels), thumbnails(data.test.pixels)
    distance, at = closest(test[rows], pool)
    found = torch.nonzero(distance.isfinite())[:, 0]
    order = found[distance[found].argsort(stable=True)][:MAX_NAMED].tolist()
    examples = [
        (_name(data.test, int(rows[i])), _name(data.pool, int(at[i])), round(float(distance[i]), 4)) for i in order
    ]
    return Duplicates(len(exact), len(found), n_looked_at, examples)


def thumbnails(pixels: UInt8[np.ndarray, "n ch h w"]) -> UInt8[Tensor, "n 1024"]:
    """Grey and 32 x 32, by the mean of what lies under each pixel."""
    small = torch.empty(len(pixels), FINE * FINE, dtype=torch.uint8)
    step = rows_at_once(pixels, 1 << 22)
    for start in range(0, len(pixels), step):
        grey = torch.from_numpy(pixels[start : start + step].mean(axis=1, dtype=np.float32))
        small[start : start + step] = functional.adaptive_avg_pool2d(grey, FINE).flatten(1).round()
    return small


def closest(
    test: UInt8[Tensor, "m 1024"], pool: UInt8[Tensor, "n 1024"]
) -> tuple[Float[Tensor, " m"], Int[Tensor, " m"]]:
    """For each test thumbnail, the distance to its copy in the pool (infinite if there is none) and the copy's position."""
    distance, at = torch.full((len(test),), torch.inf), torch.zeros(len(test), dtype=torch.int64)
    if not len(test) or not len(pool):
        return distance, at
    coarse = _coarse(pool)
    for start in range(0, len(test), 512):
        rows = torch.arange(start, min(start + 512, len(test)))
        mine = _coarse(test[rows])
        keep = _best(mine, coarse) >= MIN_CORRELATION
        rows, mine = rows[keep], mine[keep]
        for some in range(0, len(rows), 64):
            part = rows[some : some + 64]
            near = (mine[some : some + 64] @ coarse.T).topk(min(NEIGHBOURS, len(pool)), dim=1).indices
            distance[part], at[part] = _copies(test[part], pool, near)
    return distance, at


def _copies(
    test: UInt8[Tensor, "b 1024"], pool: UInt8[Tensor, "n 1024"], near: Int[Tensor, "b k"]
) -> tuple[Float[Tensor, " b"], Int[Tensor, " b"]]:
    """Of the candidates `near`, the closest one, if it is a copy."""
    mine, mine_flat = _scaled(test)
    theirs, flat = _scaled(pool[near])
    apart = (mine[:, None] - theirs).abs().mean(dim=2)
    apart[mine_flat[:, None] | flat] = torch.inf
    best, place = apart.min(dim=1)
    # a pool of one or two images has no neighbours to compare with
    usual = apart.nan_to_num(posinf=2.0).median(dim=1).values if near.shape[1] > 2 else torch.full_like(best, torch.inf)
    copy = (best <= CERTAIN) | ((best <= MAX_DISTANCE) & (best <= MAX_RATIO * usual))
    return torch.where(copy, best, torch.inf), near.gather(1, place[:, None])[:, 0]


def _scaled(thumbnail: UInt8[Tensor, "*b 1024"]) -> tuple[Float[Tensor, "*b 1024"], Tensor]:
    """Normalised brightness and contrast (mean 0, mean deviation 1), and which thumbnails are too flat to compare."""
    centred = thumbnail.float() - thumbnail.float().mean(dim=-1, keepdim=True)
    contrast = centred.abs().mean(dim=-1, keepdim=True)
    return centred / contrast.clamp(min=1e-6), contrast[..., 0] < MIN_CONTRAST


def _coarse(thumbnail: UInt8[Tensor, "b 1024"]) -> Float[Tensor, "b 64"]:
    """8 x 8, mean 0 and length 1: products are correlations."""
    small = torch.empty(len(thumbnail), COARSE * COARSE)
    for start in range(0, len(thumbnail), 4096):
        block = thumbnail[start : start + 4096].float().view(-1, FINE, FINE)
        small[start : start + 4096] = functional.avg_pool2d(block, FINE // COARSE).flatten(1)
    return functional.normalize(small - small.mean(dim=1, keepdim=True), dim=1)


def _best(mine: Float[Tensor, "b 64"], pool: Float[Tensor, "n 64"]) -> Float[Tensor, " b"]:
    """The greatest correlation with any of the pool; in blocks that stay in the processor's cache."""
    best = torch.full((len(mine),), -1.0)
    for start in range(0, len(pool), 2048):
        best = torch.maximum(best, (mine @ pool[start : start + 2048].T).amax(dim=1))
    return best


def _name(images: ImageSet, index: int) -> str:
    return images.names[index] if images.names else f"index {index}"


def _stored(path: Path) -> Duplicates | None:
    """The cached result; None if it is missing or damaged."""
    try:
        known: dict[str, Any] | None = read_json(path, ("exact", "near", "looked_at", "examples"))
        return None if known is None else Duplicates(**known | {"examples": [tuple(e) for e in known["examples"]]})
    except (OSError, TypeError, RunFolderError):
        return None
