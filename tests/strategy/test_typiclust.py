"""TypiClust against a naive float64 rule on the same clusters, and the traps of other implementations."""

import pytest
import torch
from torch import Tensor

from alframe.engine.k_means import k_means
from alframe.errors import ConfigError
from alframe.strategy import typiclust
from alframe.strategy.typiclust import TypiClust
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(n: int, d: int = 6, k: int = 8, seed: int = 0) -> Tensor:
    centres = 4 * torch.randn(k, d, generator=seeded(seed))
    return centres[torch.randint(k, (n,), generator=seeded(seed + 1))] + torch.randn(n, d, generator=seeded(seed + 2))


def select(
    strategy: TypiClust, pool: Tensor, labeled: Tensor, size: int, seed: int = 0, max_bytes: int = 1 << 30
) -> Selection:
    view = PoolView(
        n=len(pool),
        pool=summary(strategy, pool),
        n_classes=3,
        labeled=summary(strategy, labeled),
        labels=torch.zeros(len(labeled), dtype=torch.int64),
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, seeded(seed))


def summary(strategy: TypiClust, features: Tensor) -> dict[str, Tensor]:
    log_probs = torch.full((len(features), 1, 2), 0.5).log()
    return strategy.summarize(Prediction(log_probs, features, log_probs[:, 0]))


def naive_typicality(points: Tensor, neighbours: int = 20) -> Tensor:
    """1 / mean distance to the nearest others, by differences in float64."""
    distances = (points.double()[:, None] - points.double()).square().sum(dim=2).sqrt()
    distances = distances[~torch.eye(len(points), dtype=torch.bool)].reshape(len(points), -1)
    return 1 / distances.sort(dim=1).values[:, :neighbours].mean(dim=1)


def naive_rule(
    features: Tensor, labels: Tensor, n_pool: int, size: int, neighbours: int = 20, min_size: int = 5
) -> list[tuple[int, float]]:
    """The rule with clusters counted and sorted anew for every pick."""
    taken = set(range(n_pool, len(features)))
    picked = []
    while len(picked) < size:
        ranks = []
        for c in labels.unique().tolist():
            members = (labels == c).nonzero().squeeze(1).tolist()
            n_taken = sum(i in taken for i in members)
            if n_taken < len(members):
                ranks.append((len(members) <= min_size, n_taken, -len(members), c))
        c = min(ranks)[3]
        members = (labels == c).nonzero().squeeze(1)
        typicality = naive_typicality(features[members], neighbours) if len(members) > 1 else torch.zeros(1)
        free = [(float(t), i) for t, i in zip(typicality, members.tolist(), strict=True) if i not in taken]
        best, position = max(free)
        taken.add(position)
        picked.append((position, best))
    return picked


@pytest.fixture
def clusters(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The labels of the clusters that the rule has made, newest last."""
    made = []

    def remembered(*args, **options):
        found = k_means(*args, **options)
        made.append(found.labels)
        return found

    monkeypatch.setattr(typiclust, "k_means", remembered)
    return made


@pytest.mark.parametrize(
    ("n", "m", "size", "max_clusters"),
    [(300, 0, 12, 500), (300, 25, 20, 500), (300, 0, 1, 500), (200, 40, 30, 10), (90, 10, 90, 500), (90, 0, 90, 7)],
)
def test_picks_and_scores_are_those_of_the_naive_rule(
    n: int, m: int, size: int, max_clusters: int, clusters: list[Tensor]
) -> None:
    everything = blobs(n + m)
    strategy = TypiClust(max_clusters=max_clusters, normalize=False)
    selection = select(strategy, everything[:n], everything[n:], size)
    expected = naive_rule(everything, clusters[-1], n, size)
    assert selection.positions.tolist() == [position for position, _ in expected]
    torch.testing.assert_close(
        selection.scores.double(), torch.tensor([t for _, t in expected]).double(), rtol=1e-4, atol=0
    )
    assert len(clusters[-1].unique()) == min(m + size, max_clusters, n + m)
    assert selection.score_name == "typicality"


def test_mean_distance_decides_and_not_mean_squared_distance(clusters: list[Tensor]) -> None:
    # One cluster on a line: the spread of the few nearest differs, so the mean of squares ranks another image first.
    pool = torch.tensor([0.0, 1.0, 1.0 + 1e-3, 3.5, 6.0, 8.4, 10.8])[:, None]
    strategy = TypiClust(neighbours=2, max_clusters=1, normalize=False)
    picked = int(select(strategy, pool, torch.empty(0, 1), 1).positions)
    distances = (pool - pool.T).abs().sort(dim=1).values[:, 1:3]
    assert picked == int(distances.mean(dim=1).argmin())

    for seed in range(200):
        pool = torch.rand(12, 1, generator=seeded(seed))
        distances = (pool - pool.T).abs().sort(dim=1).values[:, 1:5]
        by_mean, by_squares = int(distances.mean(dim=1).argmin()), int(distances.square().mean(dim=1).argmin())
        if by_mean != by_squares:
            break
    assert by_mean != by_squares
    strategy = TypiClust(neighbours=4, max_clusters=1, normalize=False)
    assert int(select(strategy, pool, torch.empty(0, 1), 1).positions) == by_mean


def test_neighbours_are_sought_in_the_cluster_and_not_in_the_pool(clusters: list[Tensor]) -> None:
    pool = torch.randn(400, 2, generator=seeded(0))
    strategy = TypiClust(neighbours=20, normalize=False)
    selection = select(strategy, pool, torch.empty(0, 2), 8)
    in_pool = naive_typicality(pool)
    best_by_pool = []
    for c in clusters[-1].unique():
        members = (clusters[-1] == c).nonzero().squeeze(1)
        best_by_pool.append(int(members[in_pool[members].argmax()]))
    assert set(selection.positions.tolist()) != set(best_by_pool)
    assert [p for p, _ in naive_rule(pool, clusters[-1], 400, 8)] == selection.positions.tolist()


def three_clusters() -> Tensor:
    """Clusters of 60, 40 and 20 images far from each other."""
    places = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]).repeat_interleave(torch.tensor([60, 40, 20]), dim=0)
    return places + torch.randn(120, 2, generator=seeded(0))


def kind(positions: Tensor) -> list[int]:
    return torch.bucketize(positions, torch.tensor([60, 100]), right=True).tolist()


def test_clusters_take_turns_by_labels_and_then_by_size() -> None:
    pool = three_clusters()
    strategy = TypiClust(max_clusters=3, normalize=False)
    assert kind(select(strategy, pool, torch.empty(0, 2), 7).positions) == [0, 1, 2, 0, 1, 2, 0]


def test_a_pick_counts_as_a_label_at_once_so_that_turns_are_not_blind() -> None:
    pool = three_clusters()
    labeled = torch.tensor([[0.1, 0.0], [0.2, 0.0], [0.3, 0.0], [100.0, 0.3]])
    strategy = TypiClust(max_clusters=3, normalize=False)
    # Labels are 3, 1, 0. Going round the first order again and again would give 2 1 0 2 1 0.
    assert kind(select(strategy, pool, labeled, 6).positions) == [2, 1, 2, 1, 2, 0]


def test_once_all_clusters_are_covered_picks_are_still_the_typical_ones() -> None:
    pool = three_clusters()
    labeled = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    strategy = TypiClust(max_clusters=3, normalize=False)
    chosen = {tuple(select(strategy, pool, labeled, 3, seed).positions.tolist()) for seed in range(5)}
    assert len(chosen) == 1
    everything = torch.cat([pool, labeled])
    for position, (start, end, own) in zip(chosen.pop(), [(0, 60, 120), (60, 100, 121), (100, 120, 122)], strict=True):
        typicality = naive_typicality(everything[[*range(start, end), own]])
        assert position == start + int(typicality[:-1].argmax())


def test_small_clusters_wait_until_nothing_else_remains() -> None:
    places = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]).repeat_interleave(torch.tensor([20, 5, 6]), dim=0)
    pool = places + torch.randn(31, 2, generator=seeded(0))
    small = set(range(20, 25))
    strategy = TypiClust(max_clusters=3, normalize=False)
    positions = select(strategy, pool, torch.empty(0, 2), 31).positions.tolist()
    assert set(positions[26:]) == small
    positions = select(
        TypiClust(max_clusters=3, min_size=4, normalize=False), pool, torch.empty(0, 2), 3
    ).positions.tolist()
    assert len(small & set(positions)) == 1


def test_the_number_of_clusters_is_labels_and_picks_up_to_the_bound(clusters: list[Tensor]) -> None:
    pool, labeled = torch.randn(300, 4, generator=seeded(0)), torch.randn(15, 4, generator=seeded(1))
    for max_clusters, expected in ((500, 25), (20, 20)):
        select(TypiClust(max_clusters=max_clusters), pool, labeled, 10)
        assert len(clusters[-1].unique()) == expected


def test_another_generator_makes_other_clusters_and_the_same_one_the_same() -> None:
    pool = torch.randn(300, 4, generator=seeded(0))
    one, two, other = (select(TypiClust(), pool, torch.empty(0, 4), 12, seed).positions.tolist() for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_rounds_that_share_a_generator_do_not_repeat_its_draws(clusters: list[Tensor]) -> None:
    view = PoolView(n=300, pool={"features": torch.randn(300, 4, generator=seeded(0))}, n_classes=2)
    generator = seeded(1)
    for _ in range(2):
        TypiClust().select(view, 12, generator)
    assert not torch.equal(clusters[0], clusters[1])


def test_duplicates_and_zero_vectors_are_typical_with_a_finite_score() -> None:
    pool = torch.cat([torch.zeros(30, 3), torch.randn(10, 3, generator=seeded(0)).repeat_interleave(3, dim=0)])
    for normalize in (False, True):
        for size in (1, 11, 60):
            selection = select(TypiClust(normalize=normalize), pool, torch.empty(0, 3), size)
            assert len(set(selection.positions.tolist())) == size
            assert selection.scores.isfinite().all()
        assert float(selection.scores.max()) == pytest.approx(1e6)


def test_equally_typical_images_are_picked_by_the_generator_and_not_by_position() -> None:
    pool = torch.ones(40, 3)
    picked = {int(select(TypiClust(), pool, torch.empty(0, 3), 1, seed).positions) for seed in range(60)}
    assert len(picked) > 20


def test_an_image_alone_has_typicality_zero() -> None:
    selection = select(TypiClust(), torch.ones(1, 3), torch.empty(0, 3), 1)
    assert selection.positions.tolist() == [0]
    assert selection.scores.tolist() == [0.0]


def test_normalized_features_ignore_their_length() -> None:
    pool = torch.randn(200, 6, generator=seeded(0))
    lengths = torch.linspace(0.1, 30, 200)[:, None]
    for normalize in (True, False):
        strategy = TypiClust(normalize=normalize)
        scaled = select(strategy, pool * lengths, torch.empty(0, 6), 12).positions.tolist()
        assert (scaled == select(strategy, pool, torch.empty(0, 6), 12).positions.tolist()) is normalize


def test_a_larger_pool_is_cut_to_images_drawn_at_random() -> None:
    pool = blobs(500)
    strategy = TypiClust(max_points=50)
    seen = [select(strategy, pool, blobs(10, seed=9), 20, seed).positions for seed in range(30)]
    assert all(len(positions.unique()) == 20 for positions in seen)
    assert len(torch.cat(seen).unique()) > 200
    assert len(select(strategy, pool, torch.empty(0, 6), 80).positions.unique()) == 80


def test_memory_changes_nothing() -> None:
    pool, labeled = blobs(600), blobs(40, seed=5)
    expected = select(TypiClust(), pool, labeled, 30).positions.tolist()
    assert select(TypiClust(), pool, labeled, 30, max_bytes=4096).positions.tolist() == expected


@pytest.mark.parametrize(
    "option",
    [{"neighbours": 0}, {"max_clusters": 0}, {"min_size": -1}, {"max_points": 0}],
    ids=lambda option: next(iter(option)),
)
def test_options_out_of_range_are_an_error(option: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} of at least"):
        TypiClust(**option)
