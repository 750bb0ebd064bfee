"""The nearest other points of every point: by a matrix product in float32, and by differences if that is too imprecise."""

import torch
from jaxtyping import Float
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision, mean_of, quick_squared_distances, rows_within

_SPARE = 8  # candidates beyond k, so that the rounding of the product seldom decides who the k nearest are
_ROUGH = 1 / 16  # of the squared lengths: below this share a squared distance from the product has lost too many digits
_BLOCK_BYTES = 1 << 22  # of differences at once: stays in a core's cache


def nearest_distances(points: Float[Tensor, "n d"], k: int, max_bytes: int) -> Float[Tensor, "n m"]:
    """Euclidean distances from each point to its m = min(k, n - 1) nearest other points, the nearest first; float32.

    Exact above about 3e-4 of the length of the centred points; among nearer ones rounding may pick the neighbours. Duplicates are
    neighbours at distance 0. Takes `max_bytes` (64 MB at most) beside a copy of the points. Raises `StrategyError` if one is not finite.
    """
    expect_finite(points)
    n, d = points.shape
    k = max(0, min(k, n - 1))
    distances = torch.empty(n, k, device=points.device)
    if k == 0:
        return distances
    centred = points.float() - mean_of(points, max_bytes)
    squares = centred.square().sum(dim=1)
    n_candidates = min(k + _SPARE, n - 1)
    rows = rows_within(max_bytes, 8 * n)
    block = rows_within(min(max_bytes, _BLOCK_BYTES), 4 * n_candidates * d)
    with full_precision():
        for start in range(0, n, rows):
            quick = quick_squared_distances(centred[start : start + rows], centred)
            quick.diagonal(start).fill_(torch.inf)
            nearest, candidates = quick.topk(n_candidates, largest=False, sorted=True)
            distances[start : start + rows] = nearest[:, :k].sqrt()
            rough = (nearest[:, 0] < _ROUGH * squares[start : start + rows]).nonzero().squeeze(1)
            for some in rough.split(block):
                differences = points[candidates[some]].sub_(points[start + some, None])
                exact = torch.linalg.vector_norm(differences, dim=2)
                distances[start + some] = exact.topk(k, largest=False, sorted=True).values.to(distances)
    return distances
