"""Typical images first: the densest image of each cluster with the fewest labels."""

from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.k_means import k_means
from alframe.engine.neighbours import nearest_distances
from alframe.engine.sub_pool import sub_pool
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.strategy.top_score import highest
from alframe.types import PoolView, Prediction, Selection, Summary

_PER_CLUSTER = 256  # points per cluster that k-means learns its centres from, as faiss does
_CLOSEST = 1e-6  # a mean distance below this counts as this, so that the typicality of duplicates is finite


@dataclass(frozen=True)
class TypiClust(Strategy):
    """The most typical unlabelled image of the cluster with the fewest labels, the largest of these; repeatedly.

    Clusters are k-means on labelled and pool features together, min(labelled + q, `max_clusters`) of them. A pick counts as a label
    at once, so a cluster is asked again only when all others have as many. Clusters of at most `min_size` images are left until
    nothing else remains. typicality(x) = 1 / mean_i |x - x_i| over the `neighbours` nearest others in its cluster, labelled or not;
    it is the score: at most 1e6 (duplicates), and 0 for an image alone in its cluster. Ties go by `generator`.
    A pool of more than `max_points` images is cut to that many at random. `normalize` puts features on the unit sphere first.
    Source: Hacohen, Dekel & Weinshall 2022, arXiv:2202.02794. Differs: the features are those of the network in training, or of a
    frozen trunk; k-means learns its centres on at most 256 images per cluster.
    """

    neighbours: int = 20
    max_clusters: int = 500
    min_size: int = 5
    normalize: bool = True
    max_points: int = 50_000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect_at_least(self, neighbours=1, max_clusters=1, min_size=0, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": features_of(prediction, self.normalize)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        pool = view.pool["features"]
        kept = sub_pool(view.n, self.max_points, size, generator)
        features = pool if kept is None else pool[kept.to(pool.device)]
        n_pool = len(features)
        if view.labeled is not None and len(view.labeled["features"]):
            features = torch.cat([features, view.labeled["features"]])
        k = min(len(features) - n_pool + size, self.max_clusters)
        clusters = k_means(features, k, generator, max_per_cluster=_PER_CLUSTER, max_bytes=view.max_bytes)
        members = clusters.labels.argsort(stable=True).split(clusters.sizes.tolist())
        n_labels = clusters.labels[n_pool:].bincount(minlength=len(members)).tolist()

        # The next cluster is the smallest entry: large enough, few labels, many images.
        queue = [
            (len(m) <= self.min_size, n_labels[c], -len(m), c) for c, m in enumerate(members) if len(m) > n_labels[c]
        ]
        heapify(queue)
        waiting: dict[int, list[tuple[int, float]]] = {}  # of the clusters asked so far, the least typical first
        picked: list[tuple[int, float]] = []
        while len(picked) < size:
            small, count, negative_size, c = heappop(queue)
            if c not in waiting:
                waiting[c] = self._by_typicality(features, members[c], n_pool, generator, view.max_bytes)
            picked.append(waiting[c].pop())
            if waiting[c]:
                heappush(queue, (small, count + 1, negative_size, c))
        positions, scores = zip(*picked, strict=True)
        chosen = torch.tensor(positions)
        return Selection(chosen if kept is None else kept[chosen], torch.tensor(scores), "typicality")

    def _by_typicality(
        self,
        features: Float[Tensor, "n d"],
        members: Int[Tensor, " m"],
        n_pool: int,
        generator: torch.Generator,
        max_bytes: int,
    ) -> list[tuple[int, float]]:
        """Positions and typicality of a cluster's unlabelled images, the most typical last."""
        distances = nearest_distances(features[members], self.neighbours, max_bytes)
        typicality = (
            1 / distances.mean(dim=1).clamp_min(_CLOSEST) if distances.shape[1] else distances.new_zeros(len(members))
        )
        unlabelled = members < n_pool
        typicality, members = typicality[unlabelled], members[unlabelled]
        order = highest(typicality, len(members), generator).flip(0)
        return list(zip(members[order].tolist(), typicality[order].tolist(), strict=True))
