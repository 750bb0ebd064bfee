"""ProbCover against the published rule on a dense float64 graph, and the traps of other implementations."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alframe.engine import coverage
from alframe.engine.coverage import pure_radius
from alframe.errors import ConfigError
from alframe.strategy.prob_cover import ProbCover
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    centres = 3 * torch.randn(6, d, generator=seeded(seed + 100))
    which = torch.randint(6, (n,), generator=seeded(seed + 1))
    return centres[which] + torch.randn(n, d, generator=seeded(seed + 2))


def assert_naive(selection: Selection, pool: Tensor, labeled: Tensor, radius: float) -> int:
    """Every pick has a largest ball of those that cover anything new, then is farthest; how many covered something."""
    pool, labeled = pool.double(), labeled.double()
    distances = torch.stack([(pool - x).norm(dim=1) for x in pool])
    edges = distances < radius
    nearest = torch.full((len(pool),), torch.inf, dtype=torch.float64)
    for x in labeled:
        nearest = torch.minimum(nearest, (pool - x).norm(dim=1))
    covered, useful = nearest < radius, 0
    for pick, score in zip(selection.positions.tolist(), selection.scores.tolist(), strict=True):
        degrees = (edges & ~covered).sum(dim=1)
        assert score == float(degrees[pick]) == float(degrees.max())
        if score == 0:
            assert float(nearest[pick]) == pytest.approx(float(nearest.max()), rel=1e-5, abs=1e-6)
        useful += score > 0
        covered |= edges[pick]
        nearest = torch.minimum(nearest, distances[pick])
        nearest[pick] = -1
    assert len(set(selection.positions.tolist())) == len(selection.positions)
    return int(useful)


def select(pool: Tensor, labeled: Tensor, size: int, seed: int = 0, max_bytes: int = 1 << 30, **options) -> Selection:
    strategy = ProbCover(**{"normalize": False, **options})
    view = PoolView(
        n=len(pool),
        pool=summary(strategy, pool),
        n_classes=6,
        labeled=summary(strategy, labeled),
        labels=torch.zeros(len(labeled), dtype=torch.int64),
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, seeded(seed))


def summary(strategy: ProbCover, of: Tensor) -> dict[str, Tensor]:
    log_probs = torch.full((len(of), 1, 6), 1 / 6).log()
    return strategy.summarize(Prediction(log_probs, of, log_probs[:, 0]))


@pytest.mark.parametrize(("n", "m", "size"), [(300, 0, 40), (300, 30, 40), (300, 0, 1), (60, 100, 60), (60, 0, 60)])
def test_the_picks_and_counts_are_those_of_the_naive_rule(n: int, m: int, size: int) -> None:
    everything = features(n + m, 4)
    selection = select(everything[:n], everything[n:], size, radius=1.8)
    assert len(selection.positions) == size
    assert_naive(selection, everything[:n], everything[n:], 1.8)
    assert selection.score_name == "newly_covered"


def test_no_image_is_left_out_of_the_graph() -> None:
    """An incomplete last block: the three copies of the far image are the largest ball, and the last rows of the pool."""
    n = coverage._COLUMNS
    pool = torch.cat([100 * torch.eye(n + 5)[:, : n + 5], torch.full((3, n + 5), 500.0)])
    selection = select(pool, torch.empty(0, n + 5), 1, radius=1.0)
    assert int(selection.positions) >= n + 5
    assert selection.scores.tolist() == [3.0]


def test_an_image_covers_itself_whatever_rounding_says() -> None:
    pool = 1000 + 100 * features(30, 64)
    selection = select(pool, torch.empty(0, 64), 30, radius=1e-4)
    assert selection.scores.tolist() == [1.0] * 30
    assert sorted(selection.positions.tolist()) == list(range(30))


def test_after_full_coverage_the_farthest_follow_and_nothing_twice() -> None:
    """Degrees are all 0 then, where an argmax would return position 0 for ever."""
    pool, labeled = features(120, 4), features(10, 4, seed=5)
    selection = select(pool, labeled, 120, radius=6.0)
    assert 0 < assert_naive(selection, pool, labeled, 6.0) < 60
    covered_at_once = select(pool, pool, 30, radius=6.0)
    assert assert_naive(covered_at_once, pool, pool, 6.0) == 0


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_equal_images_are_picked_without_repeats(value: float) -> None:
    pool = torch.full((25, 3), value)
    for radius in (None, 0.5):
        selection = select(pool, torch.empty(0, 3), 25, radius=radius)
        assert sorted(selection.positions.tolist()) == list(range(25))
        assert selection.scores.tolist() == [25.0] + [0.0] * 24


def test_equal_balls_go_to_any_of_the_equals() -> None:
    firsts = {int(select(10 * torch.eye(40), torch.empty(0, 40), 1, seed=s, radius=1.0).positions) for s in range(8)}
    assert len(firsts) > 3


def test_the_radius_is_worked_out_in_the_features_at_hand() -> None:
    """A radius copied from one feature space to another would cover nothing here, or everything."""
    pool, labeled = features(250, 4), features(5, 4, seed=9)
    chosen = select(pool, labeled, 20)
    assert_naive(chosen, pool, labeled, pure_radius(pool, 6, 0.95, seeded()))
    scaled = select(1000 * pool, 1000 * labeled, 20)
    assert torch.equal(scaled.scores, chosen.scores)
    strict = select(pool, labeled, 20, purity=1.0)
    assert strict.scores.sum() < chosen.scores.sum()


def test_features_are_put_on_the_unit_sphere_if_asked() -> None:
    pool = features(200, 5)
    lengths = torch.linspace(0.1, 30, 200)[:, None]
    assert_naive(select(pool * lengths, pool[:0], 20, radius=0.3, normalize=True), normalize(pool), pool[:0], 0.3)


def test_a_few_bytes_of_memory_change_nothing() -> None:
    pool, labeled = features(150, 4), features(20, 4, seed=3)
    small, large = (select(pool, labeled, 40, radius=1.5, max_bytes=b) for b in (1 << 12, 1 << 30))
    assert torch.equal(small.positions, large.positions)


def test_a_large_pool_is_covered_nearly_as_well_by_a_sample() -> None:
    pool = features(1500, 3)
    shares = {}
    for max_points in (300, 1500):
        picked = pool[select(pool, pool[:0], 12, radius=1.5, max_points=max_points).positions]
        shares[max_points] = float((torch.cdist(pool, picked) < 1.5).any(dim=1).double().mean())
    assert 0.9 * shares[1500] < shares[300] <= 1.05 * shares[1500]


@pytest.mark.parametrize("options", [{"radius": 0.0}, {"purity": 0.0}, {"purity": 1.1}, {"max_points": 0}])
def test_options_out_of_range_are_named(options: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        ProbCover(**options)
