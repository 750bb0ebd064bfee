"""The nearest other points of every point: by a matrix product in float32, and by differences if that is too imprecise."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision, mean_of, quick_squared_distances, rows_within

_SPARE = 8  # candidates beyond k, so that the rounding of the product seldom decides who the k nearest are
_ROUGH = 1 / 16  # of the squared lengths: below this share a squared distance from the product has lost too many digits
_COPY = 1e-5  # of the two lengths: nearer points are copies
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


def distinct_neighbour_distances(
    points: Float[Tensor, "n d"], n_first: int, k: int, max_bytes: int
) -> Float[Tensor, "m k"]:
    """Euclidean distances from each of the first m = `n_first` points to its k nearest others that are no copies, the nearest
    first; float32, infinite where there are fewer.

    Copies count as one point, and a point nearer than 1e-5 of the two lengths is a copy: images that are equal may have features
    that differ by rounding. Exact as `nearest_distances`. O(m n d) time; a chunk of points by points within `max_bytes`
    (64 MB at most) beside two copies of the points. Raises `StrategyError` for points that are not finite.
    """
    expect_finite(points)
    distinct, places = torch.unique(points.float(), dim=0, return_inverse=True)
    wanted = places[:n_first].unique()  # distinct points of which the distances are asked for
    n = len(distinct)
    centred = distinct - mean_of(distinct, max_bytes)
    lengths = torch.linalg.vector_norm(distinct, dim=1)
    found = torch.full((n, k), torch.inf, device=points.device)
    rows = rows_within(max_bytes, 8 * n)
    with full_precision():
        for some in wanted.split(rows):
            quick = quick_squared_distances(centred[some], centred)
            quick[torch.arange(len(some), device=some.device), some] = torch.inf
            found[some] = _exact_nearest(distinct, lengths, some, quick, k, max_bytes)
    return found[places[:n_first]]


def _exact_nearest(
    points: Float[Tensor, "n d"],
    lengths: Float[Tensor, " n"],
    some: Int[Tensor, " b"],
    quick: Float[Tensor, "b n"],
    k: int,
    max_bytes: int,
) -> Float[Tensor, "b k"]:
    """Distances to the k nearest that are no copies, from differences: of k and some more candidates by the `quick` distances,
    and of twice as many for points with so many near copies that they leave fewer than k.
    """
    n, d = points.shape
    result = torch.full((len(some), k), torch.inf, device=points.device)
    left, m = torch.arange(len(some), device=points.device), k + _SPARE
    while len(left):
        m = min(m, n - 1)
        short = []
        for block in left.split(rows_within(min(max_bytes, _BLOCK_BYTES), 4 * max(1, m) * d)):
            candidates = quick[block].topk(m, largest=False).indices
            differences = points[candidates].sub_(points[some[block], None])
            exact = torch.linalg.vector_norm(differences, dim=2)
            exact[exact <= _COPY * (lengths[candidates] + lengths[some[block], None])] = torch.inf
            nearest = exact.topk(min(k, m), largest=False, sorted=True).values
            result[block, : nearest.shape[1]] = nearest
            short.append(block[nearest[:, -1:].isinf().any(dim=1)])
        left = torch.cat(short) if m < n - 1 else left[:0]
        m *= 2
    return result
