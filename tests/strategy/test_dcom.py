"""DCoM against the published rule on dense float64 distances."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alframe.errors import ConfigError
from alframe.strategy.dcom import DCoM
from alframe.strategy.prob_cover import ProbCover
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Images:
    """Features around six centres, what a network predicts for them (right three times in four), and their labels."""

    def __init__(self, n: int, d: int = 6, c: int = 3, seed: int = 0, sharpness: float = 2.0) -> None:
        groups = torch.randint(6, (n,), generator=seeded(seed + 1))
        self.features = 2 * torch.randn(6, d, generator=seeded(100))[groups] + torch.randn(n, d, generator=seeded(seed))
        self.labels = groups % c
        noise = sharpness * torch.randn(n, c, generator=seeded(seed + 2))
        self.log_probs = (noise + sharpness * torch.eye(c)[self.labels]).log_softmax(dim=1)

    def summary(self, strategy: DCoM) -> dict[str, Tensor]:
        return strategy.summarize(Prediction(self.log_probs[:, None], self.features, self.log_probs))


def assert_naive(selection: Selection, pool: Images, labeled: Images, rule: DCoM) -> tuple[float, list[float]]:
    """Every pick has a highest rank in float64, worked out on all pairs of labelled and pool images; the competence and the radii."""
    m, n = len(labeled.features), len(pool.features)
    x = torch.cat([labeled.features, pool.features]).double()
    x = normalize(x) if rule.normalize else x
    distances = torch.stack([(x - y).norm(dim=1) for y in x])
    probs = torch.cat([labeled.log_probs, pool.log_probs]).double().exp()
    predicted = probs.argmax(dim=1)
    share = float((distances[:m] < rule.radius).any(dim=0).double().mean())
    radii = []
    for i in range(m):
        low, high = 0.0, rule.max_radius
        for _ in range(10):
            middle = (low + high) / 2
            ball = distances[i] < middle
            right = (predicted[ball] == labeled.labels[i]).double().mean()
            low, high = (middle, high) if right >= 0.4 + 0.2 * share - 1e-12 else (low, middle)
        radii.append((low + high) / 2)
    covered = (distances[:m] < torch.tensor(radii)[:, None]).any(dim=0)
    share, (a, k) = float(covered.double().mean()), (rule.centre, rule.steepness)
    competence = (1 + math.exp(-k * (1 - a))) / (1 + math.exp(-k * (share - a)))
    top = probs.sort(dim=1, descending=True).values
    u = 1 - (top[:, 0] - top[:, 1])
    u = u - u.min()
    u[:m] = 0
    edges = distances < sum(radii) / m
    for pick, score in zip((m + selection.positions).tolist(), selection.scores.tolist(), strict=True):
        degrees = (edges & ~covered).sum(dim=1).double()
        degrees[:m] = 0
        rank = competence * u / max(float(u.max()), 1e-300)
        if degrees.max() > 0:
            rank += (1 - competence) * degrees / degrees.max()
        assert score == pytest.approx(float(rank[pick]), abs=1e-5)
        assert float(rank[pick]) >= float(rank.max()) - 1e-5
        covered |= edges[pick]
        u[pick] = 0
    assert len(set(selection.positions.tolist())) == len(selection.positions) <= n
    return competence, radii


def select(pool: Images, labeled: Images, rule: DCoM, size: int, seed: int = 0, max_bytes: int = 1 << 30) -> Selection:
    view = PoolView(
        n=len(pool.features),
        pool=pool.summary(rule),
        n_classes=pool.log_probs.shape[1],
        labeled=labeled.summary(rule),
        labels=labeled.labels,
        max_bytes=max_bytes,
    )
    return rule.select(view, size, seeded(seed))


@pytest.mark.parametrize("centre", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(
    ("n", "m", "size", "c"), [(200, 12, 30, 3), (200, 1, 10, 2), (60, 90, 40, 100), (150, 8, 1, 3)]
)
def test_the_picks_and_ranks_are_those_of_the_naive_rule(centre: float, n: int, m: int, size: int, c: int) -> None:
    rule = DCoM(radius=0.4, max_radius=0.8, centre=centre, steepness=8.0)
    pool, labeled = Images(n, c=c), Images(m, c=c, seed=20)
    selection = select(pool, labeled, rule, size)
    assert len(selection.positions) == size
    competence, radii = assert_naive(selection, pool, labeled, rule)
    assert 0 < competence <= 1
    assert m < 8 or max(radii) > min(radii)  # each labelled image has its own
    assert selection.score_name == "rank"


def test_competence_moves_from_coverage_to_uncertainty() -> None:
    pool, labeled = Images(300, c=3), Images(15, c=3, seed=20)
    covering = select(pool, labeled, DCoM(radius=0.4, centre=1.0, steepness=500.0, max_radius=0.3), 10)
    doubting = select(pool, labeled, DCoM(radius=0.4, centre=0.0, steepness=500.0, max_radius=0.3), 10)
    uncertainty = pool.summary(DCoM())["uncertainty"]
    assert set(doubting.positions.tolist()) == set(uncertainty.topk(10).indices.tolist())
    assert uncertainty[covering.positions].mean() < uncertainty[doubting.positions].mean()


def test_with_nothing_labelled_it_is_prob_cover() -> None:
    pool, nothing = Images(200), Images(0)
    for radius in (None, 0.5):
        rule, other = DCoM(radius=radius), ProbCover(radius=radius)
        view = PoolView(n=200, pool=pool.summary(rule), n_classes=3, labeled=nothing.summary(rule))
        expected = other.select(view, 20, seeded())
        found = select(pool, nothing, rule, 20)
        assert torch.equal(found.positions, expected.positions)
        assert torch.equal(found.scores, expected.scores)


def test_the_whole_pool_is_picked_without_repeats() -> None:
    pool, labeled = Images(80), Images(5, seed=20)
    rule = DCoM(radius=0.4)
    assert_naive(select(pool, labeled, rule, 80), pool, labeled, rule)


@pytest.mark.parametrize("kind", ["zeros", "copies", "certain"])
def test_ties_go_to_any_of_the_equals_and_never_twice(kind: str) -> None:
    pool, labeled = Images(40), Images(4, seed=20)
    if kind == "zeros":
        pool.features = torch.zeros_like(pool.features)
    if kind == "copies":
        pool.features = pool.features[:1].expand(40, -1)
    pool.log_probs = torch.tensor([0.0, -math.inf, -math.inf]).expand(40, 3)
    labeled.log_probs = pool.log_probs[:4]
    orders = [select(pool, labeled, DCoM(), 40, seed=seed) for seed in range(2)]
    assert all(sorted(order.positions.tolist()) == list(range(40)) for order in orders)
    assert all(order.scores.isfinite().all() for order in orders)
    assert orders[0].positions.tolist() != orders[1].positions.tolist()


def test_a_few_bytes_of_memory_change_nothing() -> None:
    pool, labeled, rule = Images(100), Images(10, seed=20), DCoM(radius=0.4, centre=0.5, steepness=5.0)
    small, large = (select(pool, labeled, rule, 12, max_bytes=b) for b in (1 << 12, 1 << 30))
    assert torch.equal(small.positions, large.positions)


def test_a_large_pool_is_ranked_on_a_sample_and_any_image_may_be_picked() -> None:
    pool, labeled = Images(120), Images(10, seed=20)
    positions = select(pool, labeled, DCoM(max_points=30), 120).positions
    assert sorted(positions.tolist()) == list(range(120))


@pytest.mark.parametrize(
    "options", [{"radius": 0.0}, {"max_radius": 0.0}, {"centre": 1.5}, {"steepness": 0.0}, {"max_points": 0}]
)
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        DCoM(**options)
