"""k-means against Lloyd's iterations in float64 from the same seeds, against scikit-learn, and where distances cancel."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from sklearn.cluster import KMeans
from tests_support import LargestTensor
from torch import Tensor

from alframe.engine import k_means as module
from alframe.engine.k_means import Clusters, k_means
from alframe.errors import StrategyError


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, d: int, k: int, seed: int = 0, spread: float = 0.3) -> Tensor:
    centres = 3 * torch.randn(k, d, generator=seeded(seed))
    noise = spread * torch.randn(n, d, generator=seeded(seed + 1))
    return centres[torch.randint(k, (n,), generator=seeded(seed + 2))] + noise


def seeds(points: Tensor, k: int, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
    """Where `k_means` starts from with this generator."""
    return module._seeds(points, k, generator, weights, 1 << 30).double()


def naive_lloyd(points: Tensor, centres: Tensor, n_moves: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Labels and centres after so many moves, by differences in float64; every cluster must keep weight."""
    points = points.double()
    weights = torch.ones(len(points)).double() if weights is None else weights.double()
    for _ in range(n_moves):
        labels = (points[:, None] - centres).square().sum(dim=2).argmin(dim=1)
        for c in range(len(centres)):
            mine = labels == c
            centres = centres.clone()
            centres[c] = (points[mine] * weights[mine, None]).sum(dim=0) / weights[mine].sum()
    return (points[:, None] - centres).square().sum(dim=2).argmin(dim=1), centres


def inertia(clusters: Clusters) -> float:
    return float(clusters.distances.double().sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_moves", [1, 3])
def test_it_makes_the_moves_of_the_naive_iterations_from_the_same_seeds(n_moves: int, weighted: bool) -> None:
    points = torch.randn(300, 5, generator=seeded(0))
    weights = torch.rand(300, generator=seeded(1)) if weighted else None
    clusters = k_means(points, 12, seeded(2), weights=weights, max_iterations=n_moves)
    start = seeds(points, 12, seeded(2), None if weights is None else weights.double())
    labels, centres = naive_lloyd(points, start, n_moves, weights)
    assert torch.equal(clusters.labels, labels)
    torch.testing.assert_close(clusters.centres, centres.float(), atol=1e-5, rtol=1e-5)
    expected = (points.double() - centres[labels]).square().sum(dim=1)
    torch.testing.assert_close(clusters.distances, expected.float(), atol=1e-5, rtol=1e-5)


def test_it_ends_where_scikit_learn_ends_from_the_same_seeds() -> None:
    points = blobs(600, 8, 10)
    start = seeds(points, 10, seeded(3)).numpy()
    theirs = KMeans(10, init=start, n_init=1, max_iter=300, tol=0).fit(points.double().numpy())
    ours = k_means(points, 10, seeded(3), max_iterations=300)
    assert inertia(ours) == pytest.approx(theirs.inertia_, rel=1e-3)


def test_weights_count_a_point_so_many_times() -> None:
    points = blobs(80, 3, 4)
    counts = torch.randint(1, 5, (80,), generator=seeded(5))
    weighted = k_means(points, 4, seeded(6), weights=counts.float())
    start = seeds(points, 4, seeded(6), counts.double())
    repeated = KMeans(4, init=start.numpy(), n_init=1, tol=0).fit(
        points.repeat_interleave(counts, dim=0).double().numpy()
    )
    np.testing.assert_allclose(weighted.centres.numpy(), repeated.cluster_centers_, atol=1e-5)


def test_the_scale_of_the_weights_does_not_matter() -> None:
    points, weights = blobs(200, 4, 6), torch.rand(200, generator=seeded(1))
    expected = k_means(points, 6, seeded(0), weights=weights).labels
    for scale in (1e-30, 1e30):
        assert torch.equal(k_means(points, 6, seeded(0), weights=weights * scale).labels, expected)


def test_points_without_weight_are_assigned_but_move_nothing() -> None:
    points = torch.cat([blobs(100, 3, 2), torch.full((1, 3), 1000.0)])
    weights = torch.ones(101)
    weights[100] = 0
    clusters = k_means(points, 2, seeded(0), weights=weights)
    assert clusters.centres.abs().max() < 50
    assert len(clusters.labels) == 101


def test_weights_that_are_all_zero_count_for_nothing() -> None:
    points = blobs(200, 4, 6)
    expected = k_means(points, 6, seeded(0))
    assert torch.equal(k_means(points, 6, seeded(0), weights=torch.zeros(200)).labels, expected.labels)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_weights_that_are_not_finite_or_negative_are_an_error(bad: float) -> None:
    weights = torch.ones(20)
    weights[4] = bad
    with pytest.raises(StrategyError, match="finite weights of at least 0"):
        k_means(blobs(20, 2, 2), 2, seeded(0), weights=weights)


def test_points_that_are_not_finite_are_an_error() -> None:
    points = blobs(20, 2, 2)
    points[7, 1] = torch.nan
    with pytest.raises(StrategyError, match=r"1 of 20 images \(the first: \[7\]\)"):
        k_means(points, 2, seeded(0))


def test_seeds_follow_d_squared_times_weight() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [4.0]])
    weights = torch.tensor([1.0, 4.0, 0.0, 2.0])
    generator, n_trials = seeded(0), 600
    counts = torch.zeros(4, 4)
    for _ in range(n_trials):
        first, second = seeds(points, 2, generator, weights.double()).flatten().float()
        counts[(points[:, 0] == first), (points[:, 0] == second)] += 1
    mass = weights * (points - points.T).square()
    expected = (weights / weights.sum())[:, None] * mass / mass.sum(dim=1, keepdim=True)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert chisquare(counts[possible].numpy(), n_trials * expected[possible].numpy()).pvalue > 1e-3


def test_fewer_distinct_points_than_clusters_make_a_cluster_of_each() -> None:
    points = (100 + torch.randn(6, 3, generator=seeded(0))).repeat_interleave(5, dim=0)
    clusters = k_means(points, 20, seeded(1))
    assert len(clusters.centres) == 6
    assert clusters.sizes.tolist() == [5] * 6
    assert clusters.distances.max() < 1e-9
    assert sorted(clusters.representatives(30).tolist()) == list(range(30))


def test_one_value_everywhere_is_one_cluster() -> None:
    for value in (0.0, 3.7):
        clusters = k_means(torch.full((10, 3), value), 4, seeded(0))
        assert clusters.sizes.tolist() == [10]


def test_as_many_clusters_as_points_are_the_points() -> None:
    clusters = k_means(torch.randn(40, 3, generator=seeded(0)), 40, seeded(1))
    assert sorted(clusters.labels.tolist()) == list(range(40))


def test_a_cluster_that_loses_its_points_starts_again(monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.cat([blobs(100, 2, 1), 50 + blobs(100, 2, 1, seed=3)])
    monkeypatch.setattr(module, "_seeds", lambda points, *_: torch.tensor([[0.0, 0.0], [900.0, 900.0], [999.0, 0.0]]))
    sizes = k_means(points, 3, seeded(0)).sizes
    assert sizes.min() > 0


def test_near_neighbours_far_from_the_origin_are_ranked_exactly() -> None:
    near = torch.randn(50, 8, generator=seeded(0)) * 0.02
    points = torch.cat([1000 + near, -1000 + near, 500 - near])
    clusters = k_means(points, 3, seeded(1))
    assert clusters.sizes.tolist() == [50, 50, 50]
    means = torch.stack([points[clusters.labels == c].double().mean(dim=0) for c in range(3)])
    exact = (points.double() - means[clusters.labels]).square().sum(dim=1)
    torch.testing.assert_close(clusters.distances.double(), exact, rtol=0.02, atol=0)

    # Products in float32, centred or not, are noise at this distance, so that the points above would expose them.
    squares = points.square().sum(dim=1)
    centres = clusters.centres[clusters.labels]
    products = squares + centres.square().sum(dim=1) - 2 * (points * centres).sum(dim=1)
    assert ((products - exact).abs() > exact).float().mean() > 0.3


def test_memory_changes_nothing() -> None:
    points = torch.randn(3000, 24, generator=seeded(0))
    expected = k_means(points, 20, seeded(1))
    for max_bytes in (1 << 12, 1 << 16):
        clusters = k_means(points, 20, seeded(1), max_bytes=max_bytes)
        assert torch.equal(clusters.labels, expected.labels)
        torch.testing.assert_close(clusters.centres, expected.centres, atol=1e-6, rtol=1e-6)


def test_no_copy_of_the_points_is_made() -> None:
    points = torch.randn(8000, 64, generator=seeded(0))
    with LargestTensor() as largest:
        k_means(points, 30, seeded(1), max_iterations=3, max_bytes=1 << 19)
    assert largest.nbytes <= 1 << 19 < points.nbytes


def test_a_sample_of_the_points_gives_centres_and_all_points_are_assigned() -> None:
    points = blobs(6000, 6, 5)
    everything = k_means(points, 5, seeded(0))
    sampled = k_means(points, 5, seeded(0), max_per_cluster=100)
    assert len(sampled.labels) == 6000
    distances = torch.cdist(points.double(), sampled.centres.double())
    assert torch.equal(distances.argmin(dim=1), sampled.labels)
    assert inertia(sampled) < 2 * inertia(everything)
    assert not torch.equal(sampled.centres, everything.centres)


def test_a_sample_larger_than_the_pool_changes_nothing() -> None:
    points = blobs(300, 4, 5)
    expected = k_means(points, 5, seeded(0)).labels
    assert torch.equal(k_means(points, 5, seeded(0), max_per_cluster=60).labels, expected)


def test_the_generator_alone_decides() -> None:
    points = torch.randn(200, 3, generator=seeded(0))
    one, two = k_means(points, 8, seeded(1)), k_means(points, 8, seeded(1))
    assert torch.equal(one.labels, two.labels)
    assert not torch.equal(one.labels, k_means(points, 8, seeded(2)).labels)


def test_representatives_go_round_the_clusters_by_size_and_then_outwards() -> None:
    labels = torch.tensor([0, 1, 1, 2, 1, 2])
    distances = torch.tensor([5.0, 3.0, 1.0, 2.0, 2.0, 4.0])
    clusters = Clusters(torch.zeros(4, 1), labels, distances)
    assert clusters.sizes.tolist() == [1, 3, 2, 0]
    assert clusters.representatives(6).tolist() == [2, 3, 0, 4, 5, 1]
    assert clusters.representatives(2).tolist() == [2, 3]
