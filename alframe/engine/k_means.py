"""k-means on the device: seeded k-means++, Lloyd's iterations in chunks, and one image for each cluster."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize as unit_length

from alframe.engine.d_squared import sample_d_squared
from alframe.engine.distances import expect_finite, full_precision, rows_within
from alframe.engine.nearest_centre import NearestCentre
from alframe.engine.sub_pool import sub_pool
from alframe.errors import StrategyError, expect
from alframe.types import PoolView

_SETTLED = 1e-4  # an iteration that takes less than this share off the sum of squared distances is the last
_ROWS = 1024  # of a tile, which stays in a core's cache; summed in float32 before float64 takes over


@dataclass(frozen=True)
class Clusters:
    """`centres` float32 [k, d]; `labels` int64 [n], the nearest centre of each point; `distances` float32 [n], squared, to it."""

    centres: Float[Tensor, "k d"]
    labels: Int[Tensor, " n"]
    distances: Float[Tensor, " n"]

    @property
    def sizes(self) -> Int[Tensor, " k"]:
        """Points of each cluster; 0 is possible, as the nearest centre of all points may be another."""
        return self.labels.bincount(minlength=len(self.centres))

    def representatives(self, size: int) -> Int[Tensor, " q"]:
        """`size` distinct positions: the point nearest to the centre of each cluster, larger clusters first; then the second nearest, ..."""
        by_distance = self.distances.argsort(stable=True)
        order = by_distance[self.labels[by_distance].argsort(stable=True)]  # by cluster, the nearest first
        sizes = self.sizes
        starts = sizes.cumsum(dim=0) - sizes
        place = torch.arange(len(order), device=order.device) - starts[self.labels[order]]  # 0 for the nearest
        by_size = sizes[self.labels[order]].argsort(descending=True, stable=True)
        return order[by_size[place[by_size].argsort(stable=True)]][:size]


def k_means(
    points: Float[Tensor, "n d"],
    k: int,
    generator: torch.Generator,
    *,
    weights: Float[Tensor, " n"] | None = None,
    max_iterations: int = 25,
    max_per_cluster: int | None = None,
    max_bytes: int = 1 << 30,
) -> Clusters:
    """Lloyd's k-means from k-means++ seeds. `k` is cut to the number of distinct points (of those with a weight above 0).

    `weights` (>= 0) count a point so many times; where all are 0 they count for nothing. Stops when no label changes, when an
    iteration takes less than 1e-4 off the sum of squared distances, or after `max_iterations`. A cluster that is left without
    weight starts again at a point that is far from its centre. With `max_per_cluster` the centres are found on at most that many
    points per cluster, drawn at random (as faiss does). Products are float32 on centred data; `distances` are by differences, and
    rank near neighbours far from the origin. Extra memory: 60 bytes per point, a few times the centres, the points drawn, and a tile
    within `max_bytes`. Raises `StrategyError` for points that are not finite, and for weights below 0.
    Source: Lloyd 1982; Arthur & Vassilvitskii 2007.
    """
    expect_finite(points)
    chosen = None
    if max_per_cluster is not None and len(points) > k * max_per_cluster:
        drawn = torch.randperm(len(points), generator=generator)[: k * max_per_cluster]
        chosen = drawn.sort().values.to(points.device)
    some = points if chosen is None else points[chosen]
    weights = _checked(weights if weights is None or chosen is None else weights[chosen])
    origin = (
        torch.stack([tile.float().sum(dim=0).double() for tile in some.split(_ROWS)]).sum(dim=0).div(len(some)).float()
    )
    squares = torch.cat([(tile.float() - origin).square_().sum(dim=1) for tile in some.split(_ROWS)])
    with full_precision():
        centres = _seeds(some, k, generator, weights, max_bytes).float() - origin
        labels, total = some.new_empty(0, dtype=torch.int64), math.inf
        for _ in range(max_iterations):
            labels_before, total_before = labels, total
            labels, distances, sums, mass = _assign(some, centres, origin, max_bytes, weights)
            distances.add_(squares).clamp_min_(0)
            counted = distances if weights is None else distances * weights
            total = float(counted.sum(dtype=torch.float64))
            centres = _move(centres, sums, mass, some, counted, origin)
            if torch.equal(labels, labels_before) or total > (1 - _SETTLED) * total_before:
                break
        labels = _assign(points, centres, origin, max_bytes)[0]
    tiles = zip(points.split(_ROWS), labels.split(_ROWS), strict=True)
    distances = torch.cat([(tile.float() - origin).sub_(centres[mine]).square_().sum(dim=1) for tile, mine in tiles])
    return Clusters(centres + origin, labels, distances)


def representatives(
    view: PoolView,
    candidates: Int[Tensor, " m"],
    size: int,
    generator: torch.Generator,
    normalize: bool,
    max_points: int,
) -> Int[Tensor, " q"]:
    """`size` of the `candidates` (positions, at least `size` of them): the nearest to each centre of k-means with `size` clusters.

    Clusters of more candidates come first. Above `max_points` candidates only that many are used, drawn at random. `normalize`
    clusters by direction.
    """
    some = sub_pool(len(candidates), max_points, size, generator)
    if some is not None:
        candidates = candidates[some.to(candidates.device)]
    if len(candidates) == size:
        return candidates
    points = view.pool["features"][candidates]
    if normalize:
        unit_length(points, out=points)
    clusters = k_means(points, size, generator, max_bytes=view.max_bytes)
    return candidates[clusters.representatives(size)]


def _checked(weights: Tensor | None) -> Tensor | None:
    """Weights as float64, or None where they do not count."""
    if weights is None:
        return None
    expect(
        bool((weights >= 0).all()) and bool(weights.isfinite().all()),
        "Expected finite weights of at least 0, got others; look for NaN in the network's outputs.",
        StrategyError,
    )
    return weights.double() if bool((weights > 0).any()) else None


def _seeds(points: Tensor, k: int, generator: torch.Generator, weights: Tensor | None, max_bytes: int) -> Tensor:
    """k-means++: the first by weight, the others by D² sampling; fewer than `k` where all points left equal a seed."""
    nearest = NearestCentre([points], max_bytes)
    if weights is None:
        first = int(torch.randint(len(points), (), generator=generator))
    else:
        place = float(torch.rand((), dtype=torch.float64, generator=generator))
        mass = weights.cumsum(dim=0)
        first = min(int(torch.searchsorted(mass, place * mass[-1], right=True)), len(points) - 1)
    nearest.add([first], torch.tensor([first], device=points.device), torch.zeros(1))
    nearest.refresh()
    sample_d_squared(nearest, k - 1, generator, weights)
    return points[torch.tensor(nearest.centres, device=points.device)]


def _assign(
    points: Tensor, centres: Tensor, origin: Tensor, max_bytes: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The nearest centre of every point, |x - c|² - |x|² there, and weighted sum and mass (float64) of every cluster's points."""
    n, k = len(points), len(centres)
    labels = torch.empty(n, dtype=torch.int64, device=points.device)
    nearest = torch.empty(n, device=points.device)
    sums = torch.zeros_like(centres, dtype=torch.float64)
    some_sums = torch.zeros_like(centres, dtype=torch.float32 if weights is None else torch.float64)
    lengths = centres.square().sum(dim=1)
    rows = _ROWS
    while rows > max(1, rows_within(max_bytes, 4 * (2 * k + 4 * points.shape[1]))):
        rows //= 2  # still a divisor of _ROWS, so that sums are rounded at the same places
    for start in range(0, n, rows):
        tile = points[start : start + rows].float() - origin
        low, label = torch.addmm(lengths, tile, centres.T, alpha=-2).min(dim=1)
        labels[start : start + rows], nearest[start : start + rows] = label, low
        some_sums.index_add_(
            0, label, tile if weights is None else tile.double().mul_(weights[start : start + rows, None])
        )
        if (start + rows) % _ROWS == 0 or start + rows >= n:
            sums += some_sums
            some_sums.zero_()
    mass = sums.new_zeros(k)
    mass.index_add_(0, labels, mass.new_ones(()).expand(n) if weights is None else weights)
    return labels, nearest, sums, mass


def _move(centres: Tensor, sums: Tensor, mass: Tensor, points: Tensor, counted: Tensor, origin: Tensor) -> Tensor:
    """The mean of each cluster; one without weight goes to a point that costs much (`counted`) where it is."""
    moved = (sums / mass[:, None].clamp_min(torch.finfo(mass.dtype).tiny)).float()
    empty = (mass == 0).nonzero().squeeze(1)
    if len(empty):
        moved[empty] = centres[empty]
        costly = counted.topk(len(empty)).indices
        costly = costly[counted[costly] > 0]
        moved[empty[: len(costly)]] = points[costly].float() - origin
    return moved
