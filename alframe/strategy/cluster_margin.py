"""Uncertain and diverse: images with the smallest margins, drawn in turn from agglomerative clusters."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor

from alframe.engine.distances import expect_finite, rows_within, squared_distances
from alframe.engine.k_means import k_means
from alframe.scores import margin
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.strategy.top_score import highest, read_scores
from alframe.types import PoolView, Prediction, Selection, Summary

# Images a micro-cluster learns from, and for how long: they only need to be small.
_PER_MICRO_CLUSTER, _MICRO_ITERATIONS = 4, 2


@dataclass(frozen=True)
class ClusterMargin(Strategy):
    """The `ratio` q images with the smallest margin p̄_(1) - p̄_(2), drawn in turn from clusters of their features.

    Clusters are those of the whole pool under average linkage, cut at the distance ε that leaves n / `cluster_size` of them. The
    candidates of each are a bucket. Buckets take turns, the smallest first and one random image at a time, until q are drawn.
    The score is 1 - margin. `normalize` puts features on the unit sphere first. Ties go by `generator`.
    A pool of more than `micro_clusters` images is first cut into that many by k-means, whose centres are merged at least to half;
    average linkage takes 8 `micro_clusters`² bytes (200 MB as shipped), whatever `max_bytes` is.
    Source: Citovsky et al. 2021, arXiv:2107.14263. Differs: clusters what is unlabelled again in each round, where the paper does so
    once; the mean over posterior draws; ε by average cluster size.
    """

    ratio: float = 10.0
    cluster_size: float = 10.0
    micro_clusters: int = 5000
    normalize: bool = False

    def __post_init__(self) -> None:
        expect_at_least(self, ratio=1, cluster_size=1, micro_clusters=2)

    def summarize(self, prediction: Prediction) -> Summary:
        features = features_of(prediction, self.normalize)
        return {"features": features, "score": margin(prediction.log_probs)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        scores = read_scores(margin, view)
        n_candidates = min(view.n, max(size, round(self.ratio * size)))
        candidates = highest(scores, n_candidates, generator).cpu()
        clusters = self._clusters(view.pool["features"], generator, view.max_bytes)
        picked = candidates[in_turn(clusters[candidates], generator)[:size]]
        return Selection(picked, scores.cpu()[picked], "margin", pool_scores=scores.cpu())

    def _clusters(
        self, features: Float[Tensor, "n d"], generator: torch.Generator, max_bytes: int
    ) -> Int[Tensor, " n"]:
        """The cluster index of every image of the pool."""
        n = len(features)
        n_clusters = math.ceil(n / self.cluster_size)
        if n <= self.micro_clusters:
            return average_linkage(features, n_clusters, max_bytes)
        micro = k_means(
            features,
            self.micro_clusters,
            generator,
            max_iterations=_MICRO_ITERATIONS,
            max_per_cluster=_PER_MICRO_CLUSTER,
            max_bytes=max_bytes,
        )
        n_clusters = min(n_clusters, math.ceil(len(micro.centres) / 2))
        return average_linkage(micro.centres, n_clusters, max_bytes)[micro.labels.cpu()]


def average_linkage(points: Float[Tensor, "m d"], n_clusters: int, max_bytes: int) -> Int[Tensor, " m"]:
    """Bottom-up clusters: the two with the smallest mean distance between their points merge, until at most `n_clusters` are left.

    Merges at one and the same distance happen together, as under a threshold. In host memory, 8 m² bytes.
    """
    expect_finite(points)
    m = len(points)
    if m == 1:
        return torch.zeros(1, dtype=torch.int64)
    pairs = np.empty(m * (m - 1) // 2)
    end = 0
    rows = rows_within(max_bytes, 8 * (3 * m + 2 * points.shape[1]))
    for start in range(0, m, rows):
        block = squared_distances([points[start : start + rows]], [points]).sqrt_().cpu().numpy()
        for i, distances in enumerate(block, start + 1):
            pairs[end : end + m - i] = distances[i:]
            end += m - i
    tree = linkage(pairs, "average")
    return torch.from_numpy(fcluster(tree, n_clusters, "maxclust")).long()


def in_turn(buckets: Int[Tensor, " n"], generator: torch.Generator) -> Int[Tensor, " n"]:
    """An order of all positions that takes one of each bucket in turn, smaller buckets first; in a bucket, and among equals, at random."""
    buckets, sizes = buckets.unique(return_inverse=True, return_counts=True)[1:]
    first = torch.randperm(len(sizes), generator=generator)  # the order of buckets of one size
    order = torch.randperm(len(buckets), generator=generator)
    order = order[first[buckets[order]].argsort(stable=True)]
    order = order[sizes[buckets[order]].argsort(stable=True)]
    starts = torch.cat([order.new_ones(1, dtype=torch.bool), buckets[order][1:] != buckets[order][:-1]])
    begins = torch.arange(len(order))[starts].repeat_interleave(sizes[buckets[order][starts]])
    return order[(torch.arange(len(order)) - begins).argsort(stable=True)]
