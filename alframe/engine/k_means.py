"""k-means on the device: seeded k-means++, Lloyd's iterations in chunks, and one image for each cluster."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.d_squared import sample_d_squared
from alframe.engine.distances import expect_finite, full_precision, quick_squared_distances, rows_within
from alframe.engine.nearest_centre import NearestCentre

_SETTLED = 1e-4  # of the mean squared distance to the mean: centres that move less have settled (as in scikit-learn)


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
    """Lloyd's k-means from k-means++ seeds; `k` is cut to n. `weights` (>= 0) count a point so many times.

    With `max_per_cluster` the centres are found on at most that many points a cluster, drawn at random (as faiss does), and all
    points are assigned once at the end. A cluster that loses its last point starts again at the point that is worst off. Sums are
    float64, distances float32 on centred data. Extra memory: a chunk of points by clusters within `max_bytes` (64 MB at most), and
    16 bytes a point. Raises `StrategyError` for points that are not finite.
    Source: Lloyd 1982; Arthur & Vassilvitskii 2007.
    """
    expect_finite(points)
    n, k = len(points), min(k, len(points))
    origin = points.double().mean(dim=0).float() if n * points.shape[1] < 1 << 22 else _mean(points, max_bytes)
    chosen = None
    if max_per_cluster is not None and n > k * max_per_cluster:
        chosen = torch.randperm(n, generator=generator)[: k * max_per_cluster].sort().values.to(points.device)
    some = points if chosen is None else points[chosen]
    counted = weights if weights is None or chosen is None else weights[chosen]
    if counted is not None and not float(counted.sum()) > 0:
        counted = None
    with full_precision():
        centres = _seeds(some, k, generator, counted, max_bytes).float() - origin
        before: Tensor | None = None
        for _ in range(max_iterations):
            labels, distances, sums, mass = _assign(some, centres, origin, counted, max_bytes)
            moved = torch.where(mass[:, None] > 0, sums / mass.clamp_min(1e-300)[:, None], centres.double()).float()
            empty = (mass == 0).nonzero().squeeze(1)
            if len(empty):
                worst = (distances if counted is None else distances * counted).topk(len(empty)).indices
                worst = worst[distances[worst] > 0]
                moved[empty[: len(worst)]] = some[worst].float() - origin
            shift = float((moved - centres).square().sum(dim=1).double().mean())
            centres = moved
            same = before is not None and torch.equal(before, labels)
            before = labels
            if same or shift <= _SETTLED * float(distances.double().mean()) / max(1, k):
                break
        labels, distances, _, _ = _assign(points, centres, origin, None, max_bytes, sums=False)
    return Clusters(centres + origin, labels, distances)


def _mean(points: Tensor, max_bytes: int) -> Tensor:
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for chunk in points.split(rows_within(max_bytes, 8 * points.shape[1])):
        total += chunk.double().sum(dim=0)
    return (total / len(points)).float()


def _seeds(points: Tensor, k: int, generator: torch.Generator, weights: Tensor | None, max_bytes: int) -> Tensor:
    """k-means++: the first by weight, the others by D² sampling; where all points left equal a seed, any of them."""
    nearest = NearestCentre([points], max_bytes)
    if weights is None:
        first = int(torch.randint(len(points), (), generator=generator))
    else:
        place = float(torch.rand((), dtype=torch.float64, generator=generator))
        mass = weights.double().cumsum(dim=0)
        first = min(int(torch.searchsorted(mass, place * mass[-1], right=True)), len(points) - 1)
    nearest.add([first], torch.tensor([first], device=points.device), torch.zeros(1))
    nearest.refresh()
    sample_d_squared(nearest, k - 1, generator, None if weights is None else weights.double())
    seeds = nearest.centres + [first] * (k - len(nearest.centres))
    return points[torch.tensor(seeds, device=points.device)]


def _assign(
    points: Tensor, centres: Tensor, origin: Tensor, weights: Tensor | None, max_bytes: int, *, sums: bool = True
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels and squared distances of every point, and the weighted sum and mass of every cluster (both about `origin`)."""
    n, d = points.shape
    labels = torch.empty(n, dtype=torch.int64, device=points.device)
    distances = torch.empty(n, device=points.device)
    total = torch.zeros(len(centres), d, dtype=torch.float64, device=points.device)
    mass = torch.zeros(len(centres), dtype=torch.float64, device=points.device)
    rows = rows_within(max_bytes, 4 * (2 * len(centres) + 4 * d))
    for start in range(0, n, rows):
        chunk = points[start : start + rows].float() - origin
        distances[start : start + rows], label = quick_squared_distances(chunk, centres).min(dim=1)
        labels[start : start + rows] = label
        if sums:
            weight = chunk.new_ones(len(chunk)).double() if weights is None else weights[start : start + rows].double()
            total.index_add_(0, label, chunk.double() * weight[:, None])
            mass.index_add_(0, label, weight)
    return labels, distances, total, mass
