"""Cluster-Margin: naive bottom-up clusters, the candidates, and the turns that buckets take."""

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from alframe.errors import ConfigError, StrategyError
from alframe.strategy.cluster_margin import ClusterMargin, average_linkage, in_turn
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def select(strategy: ClusterMargin, features: Tensor, margin: Tensor, size: int, seed: int = 0) -> Selection:
    view = PoolView(n=len(features), pool={"features": features, "score": margin}, n_classes=3)
    return strategy.select(view, size, seeded(seed))


def naive_average_linkage(points: Tensor, n_clusters: int) -> set[frozenset[int]]:
    """Merge the two clusters with the smallest mean distance over all their pairs, again and again."""
    distances = (points.double()[:, None] - points.double()).norm(dim=2)
    clusters = [[i] for i in range(len(points))]
    while len(clusters) > n_clusters:
        _, a, b = min(
            (float(distances[one][:, other].mean()), i, j)
            for i, one in enumerate(clusters)
            for j, other in enumerate(clusters[:i])
        )
        clusters[b] += clusters.pop(a)
    return {frozenset(cluster) for cluster in clusters}


def as_sets(labels: Tensor) -> set[frozenset[int]]:
    return {frozenset((labels == label).nonzero().squeeze(1).tolist()) for label in labels.unique()}


@pytest.mark.parametrize("n_clusters", [1, 3, 10, 40])
def test_clusters_are_those_of_naive_average_linkage(n_clusters: int) -> None:
    points = torch.randn(40, 3, generator=seeded(0))
    assert as_sets(average_linkage(points, n_clusters, 1 << 30)) == naive_average_linkage(points, n_clusters)


def test_single_complete_and_centroid_linkage_would_give_other_clusters() -> None:
    from scipy.cluster.hierarchy import fcluster, linkage

    points = torch.randn(40, 3, generator=seeded(0))
    ours = as_sets(average_linkage(points, 8, 1 << 30))
    for method in ("single", "complete", "ward"):
        tree = linkage(points.double().numpy(), method)
        assert as_sets(torch.from_numpy(fcluster(tree, 8, "maxclust"))) != ours


def test_a_few_bytes_of_memory_change_no_cluster() -> None:
    points = torch.randn(60, 5, generator=seeded(0))
    assert torch.equal(average_linkage(points, 9, 1024), average_linkage(points, 9, 1 << 30))


def test_duplicates_are_one_cluster_and_one_image_is_too() -> None:
    points = torch.randn(10, 2, generator=seeded(0)).repeat_interleave(4, dim=0)
    assert as_sets(average_linkage(points, 10, 1 << 30)) == {frozenset(range(4 * i, 4 * i + 4)) for i in range(10)}
    assert average_linkage(points[:1], 1, 1 << 30).tolist() == [0]


def naive_turns(buckets: dict[int, list[int]], size: int) -> list[int]:
    """How many images each bucket gives, smallest bucket first, in rounds."""
    order = sorted(buckets, key=lambda b: len(buckets[b]))
    left = {b: len(buckets[b]) for b in buckets}
    given = []
    while len(given) < size:
        for b in order:
            if left[b] and len(given) < size:
                left[b] -= 1
                given.append(b)
    return given


def test_buckets_take_turns_the_smallest_first() -> None:
    buckets = torch.tensor([7] * 5 + [2] * 1 + [9] * 3 + [4] * 8)
    members = {b: (buckets == b).nonzero().squeeze(1).tolist() for b in (7, 2, 9, 4)}
    for seed in range(5):
        order = in_turn(buckets, seeded(seed))
        assert sorted(order.tolist()) == list(range(17))
        assert buckets[order].tolist() == naive_turns(members, 17)


def test_in_a_bucket_and_among_buckets_of_one_size_the_draw_is_uniform() -> None:
    buckets = torch.tensor([0, 0, 0, 1, 1, 1])
    generator, counts = seeded(0), torch.zeros(6)
    for _ in range(1200):
        counts[in_turn(buckets, generator)[0]] += 1
    assert chisquare(counts.numpy()).pvalue > 1e-3


def crowded(n_crowd: int = 60, n_rare: int = 4) -> tuple[Tensor, Tensor]:
    """A crowd of near copies with the smallest margins, and a few images far from it with slightly larger ones."""
    crowd = 0.01 * torch.randn(n_crowd, 2, generator=seeded(0))
    rare = 100 * torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])[:n_rare]
    margin = torch.cat([torch.full((n_crowd,), 0.9), torch.full((n_rare,), 0.8)])
    return torch.cat([crowd, rare]), margin - 1e-3 * torch.rand(len(margin), generator=seeded(1))


def test_near_copies_with_small_margins_do_not_fill_the_query() -> None:
    features, margin = crowded()
    picked = select(ClusterMargin(cluster_size=12.8), features, margin, 10).positions
    assert set(picked[:4].tolist()) == {60, 61, 62, 63}
    # 1.25 q candidates, as one copy of the rule takes, would be nothing but the crowd.
    few = select(ClusterMargin(ratio=1.25, cluster_size=12.8), features, margin, 10).positions
    assert few.max() < 60


def test_only_the_smallest_margins_are_candidates() -> None:
    features, margin = torch.randn(300, 4, generator=seeded(0)), torch.rand(300, generator=seeded(1))
    for ratio in (1.0, 2.5, 10.0):
        candidates = set(margin.topk(round(ratio * 12)).indices.tolist())
        chosen = [select(ClusterMargin(ratio), features, margin, 12, seed).positions.tolist() for seed in range(10)]
        assert set().union(*chosen) <= candidates
        assert set(chosen[0]) == candidates or ratio > 1


def test_bucket_sizes_count_candidates_and_not_the_whole_cluster() -> None:
    # Cluster 0 is large but has one candidate; cluster 1 is small but all of it are candidates.
    features = torch.cat([torch.zeros(30, 1), torch.full((5, 1), 10.0)])
    features += 0.01 * torch.randn(35, 1, generator=seeded(0))
    margin = torch.cat([torch.full((30,), 0.1), torch.full((5,), 0.9)])
    margin[7] = 0.95
    first = {int(select(ClusterMargin(3.0, 17.5), features, margin, 2, seed).positions[0]) for seed in range(10)}
    assert first == {7}


@pytest.mark.parametrize("size", [1, 6, 25])
def test_picks_are_those_of_the_naive_rule_up_to_the_draw_in_a_bucket(size: int) -> None:
    features = torch.randn(48, 3, generator=seeded(0))
    margin = torch.rand(48, generator=seeded(1))
    candidates = margin.topk(min(48, 3 * size)).indices.tolist()
    clusters = naive_average_linkage(features, math.ceil(48 / 5))
    buckets = {c: [i for i in candidates if i in cluster] for c, cluster in enumerate(clusters)}
    buckets = {c: bucket for c, bucket in buckets.items() if bucket}
    selection = select(ClusterMargin(3.0, 5.0), features, margin, size)
    of = {i: c for c, bucket in buckets.items() for i in bucket}
    given = Counter(of[p] for p in selection.positions.tolist())
    expected = Counter(len(buckets[b]) for b in naive_turns(buckets, size))
    assert Counter({n: sum(given[b] for b in buckets if len(buckets[b]) == n) for n in expected}) == expected
    assert torch.equal(selection.scores, margin[selection.positions])


def test_above_the_bound_clusters_are_merged_from_micro_clusters() -> None:
    centres = 20 * torch.randn(6, 4, generator=seeded(0))
    kinds = torch.arange(600) % 6
    features = centres[kinds] + torch.randn(600, 4, generator=seeded(1))
    strategy = ClusterMargin(cluster_size=100.0, micro_clusters=40)
    assert as_sets(strategy._clusters(features, seeded(0), 1 << 30)) == as_sets(kinds)
    assert len(as_sets(ClusterMargin(micro_clusters=40)._clusters(features, seeded(0), 1 << 30))) <= 20


def test_duplicates_ties_and_zero_vectors_are_picked_without_repeats() -> None:
    features = torch.cat([torch.zeros(20, 3), torch.randn(10, 3, generator=seeded(0)).repeat_interleave(3, dim=0)])
    for strategy in (ClusterMargin(), ClusterMargin(micro_clusters=15)):
        for size in (1, 11, 50):
            positions = select(strategy, features, torch.full((50,), 0.5), size).positions.tolist()
            assert len(set(positions)) == size
    assert select(ClusterMargin(), features[:1], torch.ones(1), 1).positions.tolist() == [0]


@pytest.mark.parametrize("c", [2, 100])
@pytest.mark.parametrize("k", [1, 5])
def test_the_margin_is_that_of_the_mean_over_draws(c: int, k: int) -> None:
    log_probs = torch.randn(20, k, c, generator=seeded(0)).log_softmax(dim=-1)
    summary = ClusterMargin().summarize(Prediction(log_probs, torch.ones(20, 2), log_probs[:, 0]))
    top = log_probs.double().exp().mean(dim=1).sort(dim=1, descending=True).values
    torch.testing.assert_close(summary["score"].double(), 1 - (top[:, 0] - top[:, 1]), atol=1e-6, rtol=1e-5)


def test_nan_margins_are_an_error() -> None:
    margin = torch.ones(9)
    margin[4] = torch.nan
    with pytest.raises(StrategyError, match=r"NaN from margin at 1 positions \(the first: \[4\]\)"):
        select(ClusterMargin(), torch.ones(9, 2), margin, 2)


@pytest.mark.parametrize("option", [{"ratio": 0.5}, {"cluster_size": 0.9}, {"micro_clusters": 1}])
def test_options_out_of_range_are_an_error(option: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} of at least"):
        ClusterMargin(**option)
