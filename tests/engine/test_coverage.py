"""Coverage and its gains against dense float64 matrices; the purity radius against its definition."""

import math

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe.engine import coverage as module
from alframe.engine.coverage import Coverage, pure_radius
from alframe.errors import StrategyError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(n: int, d: int, seed: int = 0) -> Tensor:
    centres = 2 * torch.randn(5, d, generator=seeded(seed))
    return centres[torch.randint(5, (n,), generator=seeded(seed + 1))] + torch.randn(n, d, generator=seeded(seed + 2))


def kernel(x: Tensor, y: Tensor, radius: float, ball: bool) -> Tensor:
    distances = torch.cdist(x.double(), y.double(), compute_mode="donot_use_mm_for_euclid_dist")
    return (distances < radius).double() if ball else (-(distances / radius).square()).exp()


def assert_greedy(
    picked: list[int],
    gains: list[float],
    x: Tensor,
    labeled: Tensor,
    radius: float,
    ball: bool,
    weights: Tensor,
    size: int,
) -> Tensor:
    """Every pick is a best one of plain greedy on the whole float64 matrix (several may be), and the answer ends where nothing is left."""
    matrix = kernel(x, x, radius, ball)
    covered = torch.zeros(len(x), dtype=torch.float64)
    if len(labeled):
        covered = kernel(x, labeled, radius, ball).amax(dim=1)
    for pick, found in zip(picked, gains, strict=True):
        gain = weights.double() @ (matrix - covered[:, None]).clamp_min(0)
        assert float(gain[pick]) >= float(gain.max()) * (1 - 1e-5)
        assert found == pytest.approx(float(gain[pick]), rel=1e-4, abs=1e-6)
        covered = torch.maximum(covered, matrix[:, pick])
    if len(picked) < size:
        assert float((weights.double() @ (matrix - covered[:, None]).clamp_min(0)).max()) < 1e-4
    assert len(set(picked)) == len(picked)
    return covered


def coverage(x: Tensor, radius: float, **options) -> Coverage:
    return Coverage(x, radius, seeded(), **{"max_points": 10_000, **options})


@pytest.mark.parametrize("ball", [False, True])
@pytest.mark.parametrize(("n", "m"), [(300, 0), (300, 20), (1030, 5), (1, 0)])
def test_lazy_greedy_adds_as_much_as_plain_greedy(ball: bool, n: int, m: int) -> None:
    x, labeled = points(n, 6), points(m, 6, seed=9)
    weights = torch.rand(n, generator=seeded(5))
    lazy = coverage(x, 3.0, ball=ball, weights=weights)
    lazy.cover(labeled)
    picked, gains = lazy.greedy(40, seeded())
    covered = assert_greedy(picked, gains, x, labeled, 3.0, ball, weights, 40)
    torch.testing.assert_close(lazy.covered, covered.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ball", [False, True])
def test_no_image_is_left_out_of_the_sums(ball: bool) -> None:
    """The last image stands alone, in the last, incomplete block of columns: a dropped tail would not count it."""
    n = 2 * module._COLUMNS + 3
    x = torch.zeros(n, 2)
    x[-1] = 10.0
    gains = coverage(x, 1.0, ball=ball).gains(torch.tensor([0, n - 1]))
    assert gains.tolist() == pytest.approx([n - 1, 1])


@pytest.mark.parametrize("ball", [False, True])
def test_an_image_covers_itself_whatever_rounding_says(ball: bool) -> None:
    """The radius is far below what float32 tells apart here, and the images are far from the origin."""
    x = 1000 * points(50, 64)
    lazy = coverage(x, 1e-6, ball=ball)
    assert (lazy.gains(torch.arange(50)) >= 1).all()
    lazy.take(7)
    assert lazy.covered[7] == 1
    picked, _ = lazy.greedy(49, seeded(), [7])
    assert sorted([7, *picked]) == list(range(50))


def test_gains_do_not_follow_the_bound_of_memory() -> None:
    x, labeled = points(400, 8), points(30, 8, seed=3)
    results = []
    for max_bytes in (1 << 12, 1 << 16, 1 << 30):
        lazy = coverage(x, 2.0, max_bytes=max_bytes)
        lazy.cover(labeled)
        results.append(lazy.greedy(25, seeded())[0])
    assert results[0] == results[1] == results[2]


def test_a_copy_of_what_is_covered_adds_nothing() -> None:
    x = torch.nn.functional.normalize(points(40, 16)).repeat_interleave(3, dim=0)
    for ball in (False, True):
        lazy = coverage(x, 0.05, ball=ball)
        picked, _ = lazy.greedy(120, seeded())
        assert len(picked) == 40
        assert len({position // 3 for position in picked}) == 40


def test_above_max_points_gains_are_estimated_without_bias() -> None:
    x = points(400, 4)
    exact = coverage(x, 3.0).gains(torch.arange(400))
    estimates = torch.stack(
        [Coverage(x, 3.0, seeded(seed), max_points=40).gains(torch.arange(400)) for seed in range(300)]
    )
    error = (estimates.mean(dim=0) - exact).abs() / (estimates.std(dim=0) / math.sqrt(300))
    assert error.mean() < 1.5
    assert estimates.std(dim=0).mean() > 0.01 * exact.mean()  # a sample it was


def test_the_own_term_is_exact_also_above_max_points() -> None:
    """Images so far apart that nobody covers another: the gain is the image's own weight, in the sample or not."""
    x, weights = 100 * torch.eye(60), torch.rand(60, generator=seeded())
    gains = coverage(x, 1.0, weights=weights, max_points=7).gains(torch.arange(60))
    torch.testing.assert_close(gains.float(), weights)


def test_nothing_as_large_as_pairs_of_images_is_made() -> None:
    x = points(6000, 16)
    with LargestTensor() as largest:
        lazy = Coverage(x, 2.0, seeded(), max_points=3000, max_bytes=1 << 20)
        lazy.cover(x[:500])
        lazy.greedy(20, seeded())
    assert largest.nbytes <= 1 << 20 < 6000 * 3000 * 4


def test_few_rows_are_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    original = Coverage.gains

    def counted(self, positions):
        looked_at.append(len(positions))
        return original(self, positions)

    monkeypatch.setattr(Coverage, "gains", counted)
    lazy = coverage(points(2000, 12), 2.0)
    lazy.cover(points(100, 12, seed=4))
    lazy.greedy(50, seeded())
    assert sum(looked_at) < 0.2 * 2000 * 50


def test_points_that_are_not_finite_are_an_error() -> None:
    x = points(10, 3)
    x[4, 1] = torch.inf
    with pytest.raises(StrategyError, match=r"finite features, got NaN or infinity for 1 of 10"):
        coverage(x, 1.0)
    with pytest.raises(StrategyError, match="finite features"):
        coverage(points(10, 3), 1.0).cover(x)


@pytest.mark.parametrize("purity", [1.0, 0.95, 0.5])
def test_the_radius_is_the_largest_with_so_many_pure_balls(purity: float) -> None:
    x = points(200, 3)
    radius = pure_radius(x, 5, purity, seeded())
    labels = module.k_means(x, 5, seeded()).labels
    distances = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    nearest_other = distances.masked_fill(labels[:, None] == labels, torch.inf).amin(dim=1)

    def share_of_pure_balls(r: float) -> float:
        return float((nearest_other >= r).double().mean())

    assert share_of_pure_balls(radius) >= purity - 1e-9
    assert share_of_pure_balls(radius * 1.0002) < purity


def test_the_radius_follows_the_scale_of_the_features_and_no_other() -> None:
    x = points(300, 4)
    assert pure_radius(10 * x, 4, 0.95, seeded()) == pytest.approx(10 * pure_radius(x, 4, 0.95, seeded()), rel=1e-3)


def test_equal_images_have_no_largest_radius() -> None:
    assert pure_radius(torch.ones(20, 3), 4, 0.95, seeded()) == math.inf


def test_weights_decide_in_a_large_pool_where_nobody_covers_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the best gain is a tiny share of all weight, and yet no rounding."""
    monkeypatch.setattr(module, "_NOTHING", 1e-2)
    x, weights = 100 * torch.eye(400), torch.rand(400, generator=seeded())
    picked, _ = coverage(x, 1.0, weights=weights).greedy(10, seeded())
    assert picked == weights.topk(10).indices.tolist()


def test_near_copies_far_longer_than_the_others_are_covered_once() -> None:
    x = points(300, 8)
    far = 900 * torch.nn.functional.normalize(torch.randn(4, 8, generator=seeded(7)))
    x = torch.cat([x, (far[:, None] + 1e-3 * torch.randn(4, 5, 8, generator=seeded(8))).flatten(0, 1)])
    lazy = coverage(x, 0.5)
    _, gains = lazy.greedy(40, seeded())
    assert float(lazy.covered.max()) <= 1
    assert max(gains) <= 5 + 1e-3


def test_a_purity_radius_lost_to_rounding_is_named() -> None:
    x = points(300, 8)
    x[0] *= 1e6
    with pytest.raises(StrategyError, match="set radius to a number, or normalize to true"):
        pure_radius(x, 3, 0.95, seeded())
