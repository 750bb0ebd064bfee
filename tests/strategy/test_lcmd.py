"""Largest cluster, maximum distance against a loop over dense float64 gradients, and the traps of other implementations."""

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe.errors import ConfigError, StrategyError
from alframe.strategy.badge import Badge
from alframe.strategy.lcmd import Lcmd
from alframe.types import PoolView, Prediction, Selection, Summary


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def summary(n: int, c: int = 4, d: int = 5, seed: int = 0, scale: float = 2.0) -> Summary:
    log_probs = (scale * torch.randn(n, c, generator=seeded(seed))).log_softmax(dim=-1)
    return Lcmd().summarize(Prediction(log_probs[:, None], torch.randn(n, d, generator=seeded(seed + 1)), log_probs))


def rows(gradients: Tensor) -> Summary:
    """A summary whose dense gradients are the rows given."""
    return {"gradient": torch.ones(len(gradients), 1), "features": gradients.float()}


def dense(of: Summary) -> Tensor:
    return torch.einsum("nc,nd->ncd", of["gradient"].double(), of["features"].double()).flatten(1)


def naive_lcmd(pool: Tensor, labeled: Tensor, size: int) -> tuple[list[int], list[float]]:
    """The published rule on full rows of distances, by differences in float64. For data without ties."""
    picked: list[int] = []
    scores: list[float] = []
    centres = list(labeled)
    if not centres:
        picked.append(int(pool.square().sum(dim=1).argmax()))
        scores.append(float(pool[picked[0]].square().sum()))
        centres.append(pool[picked[0]])
    while len(picked) < size:
        distances = torch.stack([(pool - centre).square().sum(dim=1) for centre in centres])
        nearest, owner = distances.min(dim=0)
        weights = torch.stack([nearest[owner == number].sum() for number in range(len(centres))])
        inside = torch.where(owner == weights.argmax(), nearest, -1.0)
        picked.append(int(inside.argmax()))
        scores.append(float(nearest[picked[-1]]))
        centres.append(pool[picked[-1]])
    return picked, scores


def select(
    pool: Summary, labeled: Summary | None, size: int, *, seed: int = 0, max_bytes: int = 1 << 30, **options: int
) -> Selection:
    view = PoolView(n=len(pool["features"]), pool=pool, n_classes=4, labeled=labeled, max_bytes=max_bytes)
    return Lcmd(**options).select(view, size, seeded(seed))


@pytest.mark.parametrize(("c", "scale"), [(2, 1.0), (4, 2.0), (4, 8.0), (100, 3.0)])
@pytest.mark.parametrize(("n", "m", "size"), [(300, 40, 60), (300, 0, 60), (300, 1, 1), (90, 200, 90), (60, 0, 60)])
def test_the_picks_and_distances_are_those_of_the_naive_rule(c: int, scale: float, n: int, m: int, size: int) -> None:
    pool, labeled = summary(n, c, 6, scale=scale), summary(m, c, 6, seed=7, scale=scale)
    positions, scores = naive_lcmd(dense(pool), dense(labeled), size)
    selection = select(pool, labeled, size)
    assert selection.positions.tolist() == positions
    torch.testing.assert_close(selection.scores.double(), torch.tensor(scores).double(), rtol=1e-4, atol=1e-12)
    assert selection.score_name == "squared_distance"


def test_it_looks_at_the_gradients_that_badge_looks_at() -> None:
    log_probs = torch.randn(9, 3, generator=seeded(0)).log_softmax(dim=-1)
    draws = torch.randn(9, 2, 3, generator=seeded(1)).log_softmax(dim=-1)
    prediction = Prediction(draws, torch.randn(9, 4, generator=seeded(2)), log_probs)
    ours, badges = Lcmd().summarize(prediction), Badge().summarize(prediction)
    assert all(torch.equal(ours[name], badges[name]) for name in badges)


def test_the_heaviest_cluster_is_split_and_not_the_one_with_the_farthest_point() -> None:
    crowd = torch.linspace(3, 4, 50)[:, None]  # round a labelled point at 0
    loner = torch.tensor([[109.0]])  # alone with a labelled point at 100
    selection = select(rows(torch.cat([crowd, loner])), rows(torch.tensor([[0.0], [100.0]])), 1)
    assert selection.positions.tolist() == [49]


def test_clusters_weigh_by_squared_distances_and_not_by_their_size() -> None:
    many, far = torch.full((30, 1), 0.1), torch.tensor([[104.0]])
    assert select(rows(torch.cat([many, far])), rows(torch.tensor([[0.0], [100.0]])), 1).positions.tolist() == [30]


def test_labelled_images_are_centres() -> None:
    pool = summary(200)
    alone = select(pool, None, 20).positions.tolist()
    assert select(pool, {name: tensor[:0] for name, tensor in pool.items()}, 20).positions.tolist() == alone
    assert select(pool, summary(50, seed=3), 20).positions.tolist() != alone


def test_with_nothing_labelled_the_first_pick_is_the_largest_gradient() -> None:
    for seed in range(4):
        pool = summary(100, seed=seed)
        expected = dense(pool).norm(dim=1)
        selection = select(pool, None, 1)
        assert selection.positions.tolist() == [int(expected.argmax())]
        assert float(selection.scores) == pytest.approx(float(expected.max() ** 2), rel=1e-5)


def test_neighbours_far_from_the_origin_are_told_apart() -> None:
    pool, labeled = rows(1000 + torch.randn(300, 16, generator=seeded(0))), rows(1000 + torch.randn(20, 16, generator=seeded(1)))  # fmt: skip
    positions, _ = naive_lcmd(dense(pool), dense(labeled), 50)
    assert select(pool, labeled, 50).positions.tolist() == positions


def test_duplicates_are_left_while_distinct_images_remain() -> None:
    distinct = summary(20)
    pool = {name: tensor.repeat_interleave(5, dim=0) for name, tensor in distinct.items()}
    for seed in range(3):
        selection = select(pool, None, 100, seed=seed)
        assert len(set((selection.positions[:20] // 5).tolist())) == 20
        assert sorted(selection.positions.tolist()) == list(range(100))
        assert selection.scores[20:].tolist() == [0.0] * 80


def test_labelled_twice_counts_once() -> None:
    pool, labeled = summary(150), summary(12, seed=5)
    twice = {name: tensor.repeat_interleave(2, dim=0) for name, tensor in labeled.items()}
    assert select(pool, twice, 30).positions.tolist() == select(pool, labeled, 30).positions.tolist()


def test_images_that_all_equal_a_centre_are_drawn_at_random() -> None:
    pool = rows(torch.zeros(30, 3))
    choices = {tuple(select(pool, None, 4, seed=seed).positions.tolist()) for seed in range(8)}
    assert len(choices) == 8
    assert select(pool, pool, 4).scores.tolist() == [0.0] * 4


def test_ties_follow_the_generator_and_not_the_position() -> None:
    pool = rows(torch.cat([torch.eye(12), -torch.eye(12)]))
    firsts = {int(select(pool, rows(torch.zeros(1, 12)), 1, seed=seed).positions[0]) for seed in range(12)}
    assert len(firsts) > 4


def test_memory_changes_nothing() -> None:
    pool, labeled = summary(900), summary(60, seed=5)
    expected = select(pool, labeled, 80).positions.tolist()
    assert select(pool, labeled, 80, max_bytes=1 << 12).positions.tolist() == expected


def test_nothing_as_large_as_a_copy_of_the_pool_is_made() -> None:
    pool, labeled = summary(20_000, c=10, d=64), summary(400, c=10, d=64, seed=5)
    with LargestTensor() as largest:
        select(pool, labeled, 20, max_bytes=1 << 20)
    assert largest.nbytes <= 1 << 20 < pool["features"].nbytes


def test_a_wide_sketch_is_near_the_exact_distances_and_follows_the_generator() -> None:
    pool, labeled = summary(200, c=3, d=4), summary(20, c=3, d=4, seed=5)
    exact = select(pool, labeled, 1)
    sketched = select(pool, labeled, 1, sketch=20_000)
    assert sketched.positions.tolist() == exact.positions.tolist()
    torch.testing.assert_close(sketched.scores, exact.scores, rtol=0.1, atol=0)
    assert len({tuple(select(pool, labeled, 10, sketch=3, seed=seed).positions.tolist()) for seed in range(4)}) > 1


def test_a_sketch_that_does_not_fit_says_what_to_do() -> None:
    with pytest.raises(StrategyError, match=r"got 64000 bytes for 1000 images by 16 dimensions; set sketch to null"):
        select(summary(1000), None, 5, sketch=16, max_bytes=1 << 14)


def test_a_sketch_of_no_dimensions_is_an_error() -> None:
    with pytest.raises(ConfigError, match="null or at least 1 dimension, got 0"):
        Lcmd(sketch=0)


@pytest.mark.parametrize("where", ["pool", "labeled"])
def test_features_that_are_not_finite_are_an_error(where: str) -> None:
    pool, labeled = summary(20), summary(5, seed=5)
    (pool if where == "pool" else labeled)["features"][3, 1] = torch.nan
    with pytest.raises(StrategyError, match=r"finite features, got NaN or infinity for 1 of \d+ images"):
        select(pool, labeled, 2)
