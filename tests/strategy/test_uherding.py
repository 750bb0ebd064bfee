"""UHerding against plain greedy on a dense float64 kernel matrix; its temperature and radius against their definitions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from alframe.errors import ConfigError
from alframe.strategy.max_herding import MaxHerding
from alframe.strategy.uherding import UHerding, calibrated_temperature, smallest_distance
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(n: int, d: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(n, d, generator=seeded(seed)))


def log_probs(n: int, c: int, seed: int = 50, sharpness: float = 2.0) -> Tensor:
    return (sharpness * torch.randn(n, c, generator=seeded(seed))).log_softmax(dim=1)


def assert_naive(selection: Selection, pool: Tensor, labeled: Tensor, uncertainty: Tensor, radius: float) -> None:
    pool, labeled, uncertainty = pool.double(), labeled.double(), uncertainty.double()
    kernel = torch.tensor([[float((-(((a - b) / radius) ** 2).sum()).exp()) for b in pool] for a in pool]).double()
    covered = torch.zeros(len(pool), dtype=torch.float64)
    for centre in labeled:
        covered = torch.maximum(covered, (-((pool - centre) / radius).square().sum(dim=1)).exp())
    for pick, score in zip(selection.positions.tolist(), selection.scores.tolist(), strict=True):
        gain = (uncertainty[:, None] * (kernel - covered[:, None]).clamp_min(0)).mean(dim=0)
        assert float(gain[pick]) >= float(gain.max()) * (1 - 1e-4)
        assert score == pytest.approx(float(gain[pick]), rel=1e-3, abs=1e-7)
        covered = torch.maximum(covered, kernel[:, pick])


def select(pool: Tensor, pool_log_probs: Tensor, labeled: Tensor, size: int, held_out=None, **options) -> Selection:
    strategy = UHerding(**options)
    c = pool_log_probs.shape[1]
    no_images = (torch.empty(0, pool.shape[1]), torch.empty(0, c), torch.empty(0, dtype=torch.int64))
    v_features, v_log_probs, v_labels = held_out or no_images
    view = PoolView(
        n=len(pool),
        pool=summary(strategy, pool, pool_log_probs),
        n_classes=c,
        labeled=summary(strategy, labeled, log_probs(len(labeled), c)),
        labels=torch.zeros(len(labeled), dtype=torch.int64),
        held_out=summary(strategy, v_features, v_log_probs),
        held_out_labels=v_labels,
    )
    return strategy.select(view, size, seeded())


def summary(strategy: UHerding, of: Tensor, its_log_probs: Tensor) -> dict[str, Tensor]:
    return strategy.summarize(Prediction(its_log_probs[:, None], of, its_log_probs))


def naive_margin(of: Tensor, temperature: float = 1.0) -> Tensor:
    top = (of.double() / temperature).softmax(dim=1).sort(dim=1, descending=True).values
    return 1 - (top[:, 0] - top[:, 1])


def naive_radius(labeled: Tensor) -> float:
    return min(float((a - b).norm()) for i, a in enumerate(labeled.double()) for b in labeled.double()[:i])


@pytest.mark.parametrize("c", [2, 100])
@pytest.mark.parametrize(("n", "m", "size"), [(80, 12, 25), (80, 2, 1), (30, 60, 30)])
def test_the_picks_and_gains_are_those_of_the_naive_rule(c: int, n: int, m: int, size: int) -> None:
    pool, labeled = features(n, 6), features(m, 6, seed=1)
    uncertain = log_probs(n, c)
    selection = select(pool, uncertain, labeled, size)
    assert len(selection.positions) == size
    assert_naive(selection, pool, labeled, naive_margin(uncertain), naive_radius(labeled))


def test_uncertainty_weighs_the_images_to_cover_and_not_the_candidates() -> None:
    """Two groups, the certain one denser. The middle of the uncertain one is itself certain and still the one to pick: with the
    axes exchanged its gain would be 0."""
    pool = torch.tensor([[1.0, 0.0], [0.99, 0.14], [0.99, -0.14], [0.0, 1.0], [0.02, 1.0], [-0.02, 1.0], [0.04, 1.0]])
    probs = torch.tensor([[0.999, 0.001], [0.5, 0.5], [0.5, 0.5]] + 4 * [[0.999, 0.001]])
    labeled = torch.tensor([[-1.0, 0.0], [-0.955, -0.295]])  # 0.3 apart
    assert select(pool, probs.log(), labeled, 1).positions.tolist() == [0]


def test_with_nothing_labelled_it_is_max_herding() -> None:
    pool, nothing = features(150, 8), torch.empty(0, 8)
    rule = MaxHerding()
    view = PoolView(n=150, pool={"features": pool}, n_classes=4, labeled={"features": nothing})
    expected = rule.select(view, 20, seeded())
    found = select(pool, log_probs(150, 4), nothing, 20)
    assert torch.equal(found.positions, expected.positions)
    torch.testing.assert_close(found.scores, expected.scores)


def test_with_many_labels_it_comes_near_to_margin() -> None:
    pool, uncertain = features(200, 32), log_probs(200, 3)
    near = normalize(features(1, 32) + 0.02 * features(2, 32, seed=4))
    positions = select(pool, uncertain, near, 10).positions
    assert set(positions.tolist()) == set(naive_margin(uncertain).topk(10).indices.tolist())


def test_certain_images_only_are_covered_as_if_uncertain() -> None:
    """One-hot probabilities: all weights are 0, and an argmax would take position 0 again and again."""
    pool, labeled = features(60, 6), features(5, 6, seed=2)
    certain = torch.full((60, 3), -math.inf)
    certain[:, 1] = 0
    selection = select(pool, certain, labeled, 60)
    assert sorted(selection.positions.tolist()) == list(range(60))
    assert torch.equal(selection.scores, torch.zeros(60))
    strategy = MaxHerding(radius=smallest_distance(labeled, 1 << 30))
    view = PoolView(n=60, pool={"features": pool}, n_classes=3, labeled={"features": labeled})
    assert selection.positions[:20].tolist() == strategy.select(view, 20, seeded(1)).positions.tolist()


@pytest.mark.parametrize("kind", ["zeros", "copies"])
def test_zero_vectors_and_copies_are_picked_without_repeats(kind: str) -> None:
    pool = torch.zeros(30, 4) if kind == "zeros" else features(3, 4).repeat(10, 1)
    selection = select(pool, log_probs(30, 2), pool[:4], 30)
    assert sorted(selection.positions.tolist()) == list(range(30))
    assert selection.scores.isfinite().all()


def naive_error(of: Tensor, labels: Tensor, temperature: float) -> float:
    confidence, predicted = (of.double() / temperature).softmax(dim=1).max(dim=1)
    error = 0.0
    for b in range(15):
        inside = (confidence >= b / 15) & ((confidence < (b + 1) / 15) | (b == 14))
        if inside.any():
            gap = (predicted[inside] == labels[inside]).double().mean() - confidence[inside].mean()
            error += float(inside.double().mean() * gap.abs())
    return error


def test_the_temperature_has_the_smallest_calibration_error() -> None:
    truth = log_probs(4000, 5)
    labels = torch.multinomial(truth.exp(), 1, generator=seeded(3)).squeeze(1)
    overconfident = (3 * truth).log_softmax(dim=1)
    temperature = calibrated_temperature(overconfident, labels)
    assert 2.4 < temperature < 3.7
    grid = [10 ** (i / 24 - 1) for i in range(49)]
    assert (
        naive_error(overconfident, labels, temperature)
        <= min(naive_error(overconfident, labels, t) for t in grid) + 1e-9
    )


def test_the_validation_images_set_the_temperature() -> None:
    pool, labeled, uncertain = features(80, 6), features(10, 6, seed=1), log_probs(80, 4, sharpness=6)
    truth = log_probs(500, 4, seed=8)
    labels = torch.multinomial(truth.exp(), 1, generator=seeded(3)).squeeze(1)
    overconfident = (3 * truth).log_softmax(dim=1)
    temperature = calibrated_temperature(overconfident, labels)
    selection = select(pool, uncertain, labeled, 20, held_out=(features(500, 6), overconfident, labels))
    assert_naive(selection, pool, labeled, naive_margin(uncertain, temperature), naive_radius(labeled))
    assert selection.positions.tolist() != select(pool, uncertain, labeled, 20).positions.tolist()


def test_of_equally_calibrated_temperatures_the_one_nearest_to_1_is_taken() -> None:
    certain = torch.tensor([[0.0, -math.inf]]).expand(6, 2)
    assert calibrated_temperature(certain, torch.zeros(6, dtype=torch.int64)) == 1.0


def test_copies_among_the_labelled_do_not_set_the_radius() -> None:
    labeled = features(20, 6)
    with_copies = torch.cat([labeled, labeled[:7], labeled[:1]])
    assert smallest_distance(with_copies, 1 << 30) == pytest.approx(naive_radius(labeled), rel=1e-4)
    assert smallest_distance(with_copies, 1 << 8) == pytest.approx(naive_radius(labeled), rel=1e-4)
    assert smallest_distance(labeled[:1], 1 << 30) == smallest_distance(torch.zeros(5, 3), 1 << 30) == 0


def test_max_points_out_of_range_is_named() -> None:
    with pytest.raises(ConfigError, match="max_points"):
        UHerding(max_points=0)


def test_features_with_a_large_common_part_are_no_copies_of_each_other() -> None:
    """As after a ReLU: all cosines are near 1, and distances small beside the lengths."""
    own = features(30, 8)
    spread = smallest_distance(own, 1 << 20)
    together = own + 1000.0
    assert smallest_distance(together, 1 << 20) == pytest.approx(spread, rel=1e-2)
