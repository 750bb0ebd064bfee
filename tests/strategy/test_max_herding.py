"""MaxHerding against plain greedy on a dense float64 kernel matrix, and the traps of other implementations."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alframe.errors import ConfigError
from alframe.strategy.max_herding import MaxHerding
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    centres = torch.randn(6, d, generator=seeded(seed + 100))
    which = torch.randint(6, (n,), generator=seeded(seed + 1))
    return centres[which] + 0.5 * torch.randn(n, d, generator=seeded(seed + 2))


def assert_naive(selection: Selection, pool: Tensor, labeled: Tensor, radius: float = 1.0) -> None:
    """Every pick is a best one of the published rule in float64: pairs that cover each other alike are equally good."""
    pool, labeled = pool.double(), labeled.double()
    kernel = torch.tensor([[float((-(((a - b) / radius) ** 2).sum()).exp()) for b in pool] for a in pool]).double()
    covered = torch.zeros(len(pool), dtype=torch.float64)
    for centre in labeled:
        covered = torch.maximum(covered, (-((pool - centre) / radius).square().sum(dim=1)).exp())
    for pick, score in zip(selection.positions.tolist(), selection.scores.tolist(), strict=True):
        gain = (kernel - covered[:, None]).clamp_min(0).mean(dim=0)  # over the images to cover, not over the candidates
        assert float(gain[pick]) >= float(gain.max()) * (1 - 1e-5)
        assert score == pytest.approx(float(gain[pick]), rel=1e-4, abs=1e-7)
        covered = torch.maximum(covered, kernel[:, pick])
    assert len(set(selection.positions.tolist())) == len(selection.positions)


def select(pool: Tensor, labeled: Tensor, size: int, seed: int = 0, max_bytes: int = 1 << 30, **options) -> Selection:
    strategy = MaxHerding(**options)
    view = PoolView(
        n=len(pool),
        pool=summary(strategy, pool),
        n_classes=3,
        labeled=summary(strategy, labeled),
        labels=torch.zeros(len(labeled), dtype=torch.int64),
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, seeded(seed))


def summary(strategy: MaxHerding, of: Tensor) -> dict[str, Tensor]:
    log_probs = torch.full((len(of), 1, 3), 1 / 3).log()
    return strategy.summarize(Prediction(log_probs, of, log_probs[:, 0]))


@pytest.mark.parametrize(("n", "m", "size"), [(90, 0, 30), (90, 25, 30), (90, 0, 1), (40, 90, 40)])
def test_the_picks_and_gains_are_those_of_the_naive_rule(n: int, m: int, size: int) -> None:
    everything = normalize(features(n + m, 8))
    selection = select(everything[:n], everything[n:], size)
    assert len(selection.positions) == size
    assert_naive(selection, everything[:n], everything[n:])
    assert selection.score_name == "coverage_gain"


def test_the_radius_and_the_length_of_features_count_as_configured() -> None:
    pool, labeled = features(80, 5), features(10, 5, seed=7)
    raw, unit = select(pool, labeled, 15, radius=2.5, normalize=False), select(pool, labeled, 15)
    assert_naive(raw, pool, labeled, 2.5)
    assert_naive(unit, normalize(pool), normalize(labeled))
    assert unit.positions.tolist() != raw.positions.tolist()


def test_images_that_add_nothing_are_never_picked_twice() -> None:
    """Ten copies each of four images: after four picks every gain is 0, where an argmax would return to the first position."""
    pool = features(4, 6).repeat_interleave(10, dim=0)
    selection = select(pool, torch.empty(0, 6), 40)
    positions = selection.positions.tolist()
    assert len({position // 10 for position in positions[:4]}) == 4
    assert sorted(positions) == list(range(40))
    assert torch.equal(selection.scores[4:], torch.zeros(36))


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_equal_images_are_picked_at_random_and_without_repeats(value: float) -> None:
    pool = torch.full((30, 4), value)
    orders = [select(pool, torch.empty(0, 4), 30, seed=seed).positions.tolist() for seed in range(3)]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert orders[0] != orders[1] != orders[2]


def test_labelled_copies_are_left_until_the_end() -> None:
    pool = features(40, 6)
    positions = select(pool, pool[:25], 40).positions.tolist()
    assert set(positions[:15]) == set(range(25, 40))
    assert sorted(positions) == list(range(40))


def test_permuting_the_pool_permutes_the_choice() -> None:
    pool, labeled = features(200, 8), features(5, 8, seed=3)
    order = torch.randperm(200, generator=seeded(9))
    chosen = select(pool, labeled, 30).positions
    assert torch.equal(order[select(pool[order], labeled, 30, seed=4).positions], chosen)


def test_a_large_pool_is_covered_nearly_as_well_by_a_sample() -> None:
    pool = normalize(features(1500, 8))
    covered = {}
    for max_points in (300, 1500):
        picked = pool[select(pool, torch.empty(0, 8), 20, max_points=max_points).positions]
        covered[max_points] = float((-torch.cdist(pool, picked).square()).exp().amax(dim=1).mean())
    assert 0.98 * covered[1500] < covered[300] <= covered[1500] + 1e-6


def test_any_image_of_a_large_pool_may_be_picked() -> None:
    pool = features(500, 8)
    positions = select(pool, torch.empty(0, 8), 500, max_points=50).positions
    assert sorted(positions.tolist()) == list(range(500))


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"radius": -1.0}, {"max_points": 0}])
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        MaxHerding(**options)
