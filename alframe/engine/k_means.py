"""k-means on the device: seeded k-means++, Lloyd's iterations in chunks, and one image for each cluster."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.d_squared import sample_d_squared
from alframe.engine.distances import expect_finite, full_precision, quick_squared_distances, rows_within
from alframe.engine.nearest_centre import NearestCentre
from alframe.errors import StrategyError, expect

_SETTLED = 1e-4  # an iteration that takes less than this share off the sum of squared distances is the last
_MEAN_ROWS = 1024  # summed at a time for the mean: fixed, so that the last bit does not follow `max_bytes`


@dataclass(frozen=True)
class Clusters:
    """`centres` float32 [k, d]; `labels` int64 [n], the nearest centre of each point; `distances` float32 [n], squared, to it."""

    centres: Float[Tensor, "k d"]
    labels: Int[Tensor, " n"]
    distances: Float[Tensor, " n"]

    @property
    def sizes(self) -> Int[Tensor, " k"]:
        """Points of each cluster; 0 is possible where there are fewer distinct points than clusters."""
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
    """Lloyd's k-means from k-means++ seeds; `k` is cut to n. `weights` (>= 0) count a point so many times; all 0 is as none.

    Stops when no label changes, when an iteration takes less than 1e-4 off the (weighted) sum of squared distances, or after
    `max_iterations`. A cluster without weight starts again at a point that is far from its centre.
    With `max_per_cluster` the centres are found on at most that many points a cluster, drawn at random (as faiss does), and all
    points are assigned once at the end. Products are float32 on centred data, sums float64, and the `distances` that come out are
    by differences, so that they rank near neighbours far from the origin. Extra memory: a chunk within `max_bytes` (64 MB at most),
    40 bytes a point, and the points drawn. Raises `StrategyError` for points that are not finite, and for negative weights.
    Source: Lloyd 1982; Arthur & Vassilvitskii 2007.
    """
    expect_finite(points)
    n, k = len(points), min(k, len(points))
    chosen = None
    if max_per_cluster is not None and n > k * max_per_cluster:
        chosen = torch.randperm(n, generator=generator)[: k * max_per_cluster].sort().values.to(points.device)
    some = points if chosen is None else points[chosen]
    weights = _checked(weights if weights is None or chosen is None else weights[chosen])
    origin = _mean(some)
    with full_precision():
        centres = _seeds(some, k, generator, weights, max_bytes).float() - origin
        labels, total = some.new_full((len(some),), -1, dtype=torch.int64), float("inf")
        for _ in range(max_iterations):
            before, total_before = labels, total
            labels, distances, sums, mass = _assign(some, centres, origin, weights, max_bytes)
            total = float((distances if weights is None else distances * weights).sum(dtype=torch.float64))
            if torch.equal(labels, before) or total_before - total < _SETTLED * total_before:
                break  # before the first iteration total_before is infinite, and the difference too
            centres = _moved(some, centres, origin, distances, sums, mass)
        return _nearest(points, centres, origin, max_bytes)


def _checked(weights: Tensor | None) -> Tensor | None:
    if weights is None:
        return None
    expect(
        bool(weights.isfinite().all()) and float(weights.min()) >= 0,
        "Expected finite weights of at least 0, got others; look for NaN in the predictions.",
        StrategyError,
    )
    return weights.double() if float(weights.max()) > 0 else None
