"""A diverse subset of candidates: cluster them, and take the image nearest to each centre."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from alframe.engine.k_means import k_means
from alframe.engine.sub_pool import sub_pool


def representatives(
    features: Float[Tensor, "n d"],
    candidates: Int[Tensor, " m"],
    size: int,
    generator: torch.Generator,
    *,
    normalize: bool,
    max_points: int,
    max_bytes: int,
) -> Int[Tensor, " q"]:
    """`size` of the `candidates` (positions, at least `size` of them): the nearest to each centre of k-means with `size` clusters.

    Clusters of more candidates come first. Above `max_points` candidates only that many are used, drawn at random, so that a
    copy of `max_points` rows is enough. `normalize` clusters by direction.
    """
    some = sub_pool(len(candidates), max_points, size, generator)
    if some is not None:
        candidates = candidates[some.to(candidates.device)]
    if len(candidates) == size:
        return candidates
    points = features[candidates]
    if normalize:
        unit_length(points, out=points)
    clusters = k_means(points, size, generator, max_bytes=max_bytes)
    return candidates[clusters.representatives(size)]
