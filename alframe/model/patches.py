"""How far the patches of an image are from those of other images, by middle layers of a trunk that no training changes."""

import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from alframe.console import progress
from alframe.engine.distances import full_precision, quick_squared_distances, rows_within
from alframe.images import ImageSet, content_digest
from alframe.model.frozen import Embedder, Frozen
from alframe.model.trunk import lite0_weights, stage_ends
from alframe.record.files import replacing
from alframe.rng import generator

VERSION = 1  # part of the cache key: raise it with every change that affects a score
SIDE, LARGE_SIDE, LARGE = 160, 256, 192  # pixels that images are stretched to: the second from 192 pixels a side on
SAMPLE, CANDIDATES, MEMORY = 1_000, 40_000, 2_000  # images drawn, patches drawn from these, patches kept
CHANNELS, DIMENSIONS = 40 + 112, 64  # of the layers at 1/8 and 1/16, and of their projection
NEIGHBOURS = 3  # memory patches whose mean distance counts
TOP = 0.02  # the share of an image's patches that makes its score
BATCH = 16

Kept = dict[str, Tensor]


class Patches:
    """A memory of patches of the initial pool, and the distance of any image's patches to the nearest of OTHER images.

    Images are stretched to 160 x 160 pixels, those of 192 and more to 256 x 256. A patch is a position of the layer of
    EfficientNet-lite0 at 1/8 of that and of the one at 1/16, enlarged to it, each averaged over 3 x 3 positions; channels are
    divided by their deviation and projected to 64 random orthogonal directions. Of at most 40,000 patches of at most 1,000
    random images a greedy core-set of 2,000 is kept. The distance of a patch is the mean over its 3 nearest in the memory;
    copies of an image count as that image. The score of an image is the mean over the 2 % of its patches with the largest
    distance. One pass over the pool, kept in `cache`; about 300 MB of memory beside the trunk's, and tiles
    within `max_bytes`. Images that arrive later change the score of none. Raises ConfigError where a package is missing.
    Source: PatchCore, Roth et al. 2022, arXiv:2106.08265. Differs: the pool holds anomalies, hence other images and 3
    neighbours; lite0; 2 % of the patches instead of the largest.
    """

    def __init__(self, first: ImageSet, cache: Path, device: torch.device, max_bytes: int = 1 << 30) -> None:
        self.cache, self.device, self.max_bytes = cache, device, max_bytes
        self.side = LARGE_SIDE if min(first.shape[1:]) >= LARGE else SIDE
        self._of = [VERSION, self.side, Path(lite0_weights()).name, first.pixels_hash]
        kept = self._kept(self._of, lambda: self._remember(first))
        self.memory, self.owners, self.deviation, self._scores = (
            kept[name].to(device) for name in ("memory", "owners", "deviation", "scores")
        )
        self._first = first

    def scores(self, images: ImageSet) -> Float[Tensor, " n"]:
        """The score of each of `images`, on the CPU: of the initial pool, or of photos that arrived later."""
        if images.pixels_hash == self._first.pixels_hash:
            return self._scores.cpu()
        kept = self._kept([*self._of, images.pixels_hash], lambda: {"scores": self._pass(images)})
        return kept["scores"]

    @torch.no_grad()
    def maps(self, pixels: np.ndarray) -> Float[Tensor, "b h w"]:
        """The distance of each patch of raw images uint8 [b, c, h, w], on the CPU."""
        parts = []
        for start in range(0, len(pixels), BATCH):
            some = pixels[start : start + BATCH]
            parts.append(self._distances(self._patches(some, self.deviation), owners_of(some)).cpu())
        return torch.cat(parts).unflatten(1, (self.side // 8, self.side // 8))

    @cached_property
    def _embedder(self) -> Embedder:
        return Frozen(pooling="layers", input_size=self.side).embedder().to(self.device)

    def _layers(self, pixels: np.ndarray) -> Float[Tensor, "b p 152"]:
        """Both layers of raw images, a row for each position."""
        seen: list[Tensor] = []
        handles = [
            end.register_forward_hook(lambda _, inputs, output: seen.append(output))
            for end in stage_ends(self._embedder.trunk)[:2]
        ]
        try:
            self._embedder(torch.from_numpy(np.array(pixels)).to(self.device))
        finally:
            for handle in handles:
                handle.remove()
        fine, coarse = (F.avg_pool2d(layer, 3, 1, 1, count_include_pad=False) for layer in seen)
        coarse = F.interpolate(coarse, size=fine.shape[2:], mode="bilinear")
        return torch.cat([fine, coarse], dim=1).flatten(2).mT

    def _patches(self, pixels: np.ndarray, deviation: Float[Tensor, " 152"]) -> Float[Tensor, "b p 64"]:
        random = torch.randn(CHANNELS, DIMENSIONS, generator=generator(0, 0, "projection"), dtype=torch.float64)
        axes = torch.linalg.qr(random)[0].float().to(self.device)
        return self._layers(pixels) @ (axes / deviation[:, None])

    def _distances(self, patches: Float[Tensor, "b p d"], own: Int[Tensor, " b"]) -> Float[Tensor, "b p"]:
        n = rows_within(self.max_bytes, 8 * patches.shape[1] * len(self.memory))
        blocks = zip(patches.split(n), own.to(self.device).split(n), strict=True)
        return torch.cat([distances_to_others(some, of, self.memory, self.owners, NEIGHBOURS) for some, of in blocks])

    @torch.no_grad()
    def _remember(self, images: ImageSet) -> Kept:
        """Draw the memory, and score all images: the drawn ones by patches that are still there, the others as they pass."""
        stream = generator(0, 0, "patches")
        drawn = torch.randperm(len(images), generator=stream)[:SAMPLE].sort().values
        few = drawn[torch.randperm(len(drawn), generator=stream)[:64]].split(BATCH)
        layers = torch.cat([self._layers(images.pixels[rows.numpy()]) for rows in few])
        deviation = layers.flatten(0, 1).std(dim=0).clamp_min(1e-6)
        chunks = progress(drawn.split(BATCH), "patches of some images")
        patches = torch.empty(len(drawn), layers.shape[1], DIMENSIONS, dtype=torch.float16, device=self.device)
        del layers
        for start, rows in zip(range(0, len(drawn), BATCH), chunks, strict=True):
            patches[start : start + len(rows)] = self._patches(images.pixels[rows.numpy()], deviation)
        of_drawn = owners_of(images.pixels[drawn.numpy()])
        each = max(1, min(patches.shape[1], CANDIDATES // len(drawn)))
        places = torch.stack([torch.randperm(patches.shape[1], generator=stream)[:each] for _ in drawn])
        some = patches[torch.arange(len(drawn))[:, None], places.to(self.device)].flatten(0, 1).float()
        kept = core_set(some, MEMORY)
        self.memory, self.owners = some[kept], of_drawn.repeat_interleave(each).to(self.device)[kept]
        self.deviation = deviation
        scores = torch.empty(len(images))
        pairs = zip(patches.split(BATCH), of_drawn.split(BATCH), strict=True)
        scores[drawn] = torch.cat([score(self._distances(of.float(), own)) for of, own in pairs]).cpu()
        rest = torch.ones(len(images), dtype=torch.bool).index_fill_(0, drawn, False).nonzero().squeeze(1)
        scores[rest] = self._pass(images, rest)
        return {"memory": self.memory, "owners": self.owners, "deviation": deviation, "scores": scores}

    @torch.no_grad()
    def _pass(self, images: ImageSet, rows: Int[Tensor, " m"] | None = None) -> Float[Tensor, " m"]:
        rows = torch.arange(len(images)) if rows is None else rows
        parts = [torch.empty(0)]
        for some in progress(rows.split(BATCH) if len(rows) else (), "patches"):
            pixels = images.pixels[some.numpy()]
            parts.append(score(self._distances(self._patches(pixels, self.deviation), owners_of(pixels))).cpu())
        return torch.cat(parts)

    def _kept(self, of: list[object], compute: Callable[[], Kept]) -> Kept:
        """What is stored for `of`, or else computed and stored."""
        key = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:20]
        path = self.cache / f"patches-{key}.safetensors"
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # the cells of a sweep that start together compute it once
            try:
                return load_file(path)
            except (OSError, SafetensorError):
                found = {name: tensor.cpu().contiguous() for name, tensor in compute().items()}
                with replacing(path) as temporary:
                    save_file(found, temporary)
                return found


def owners_of(pixels: np.ndarray) -> Int[Tensor, " b"]:
    """A number for each image, the same for copies."""
    numbers = [int(content_digest(image), 16) for image in pixels]
    return torch.from_numpy(np.array(numbers, dtype=np.uint64).view(np.int64))


def distances_to_others(
    patches: Float[Tensor, "b p d"],
    own: Int[Tensor, " b"],
    memory: Float[Tensor, "m d"],
    owners: Int[Tensor, " m"],
    k: int,
) -> Float[Tensor, "b p"]:
    """The mean Euclidean distance of each patch to the k nearest of `memory` that other images own; 0 if there are none."""
    with full_precision():
        centre = memory.mean(dim=0)
        quick = quick_squared_distances(patches.flatten(0, 1) - centre, memory - centre).unflatten(0, patches.shape[:2])
    quick.masked_fill_((owners == own[:, None])[:, None], torch.inf)
    nearest = quick.topk(min(k, len(memory)), largest=False).values.sqrt()
    found = nearest.isfinite()
    return nearest.where(found, 0).sum(dim=2) / found.sum(dim=2).clamp_min(1)


def score(distances: Float[Tensor, "b p"]) -> Float[Tensor, " b"]:
    """The mean over the 2 % of an image's patches with the largest distance, at least one."""
    return distances.topk(max(1, round(TOP * distances.shape[1])), dim=1).values.mean(dim=1)


def core_set(points: Float[Tensor, "n d"], size: int) -> Int[Tensor, " m"]:
    """Greedily, the point that is farthest from all before it, from the first one on; m = min(size, n). O(n m d) time."""
    squares, chosen = points.square().sum(dim=1), torch.zeros(min(size, len(points)), dtype=torch.int64)
    far = torch.full_like(squares, torch.inf)
    chosen = chosen.to(points.device)
    for i in range(1, len(chosen)):
        last = points[chosen[i - 1]]
        far = torch.minimum(far, torch.addmv(squares, points, last, alpha=-2).add_(last.square().sum()))
        chosen[i] = far.argmax()
    return chosen
