"""k-centre greedy against a float64 loop over full distance rows, and the traps of other implementations."""

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe.engine import nearest_centre
from alframe.errors import ConfigError, StrategyError
from alframe.strategy import core_set
from alframe.strategy.core_set import CoreSet
from alframe.types import PoolView, Prediction, Selection


def naive_k_centre(
    pool: Tensor, labeled: Tensor, size: int, outlier_rate: float = 0.0
) -> tuple[list[int], list[float]]:
    """The published greedy rule, by differences in float64; with a rate, past the farthest share of the images left."""
    pool, labeled = pool.double(), labeled.double()
    picked, scores = [], []
    nearest = torch.full((len(pool),), torch.inf, dtype=torch.float64)
    if len(labeled) == 0:
        picked.append(int((pool - pool.mean(dim=0)).square().sum(dim=1).argmin()))
        nearest = (pool - pool[picked[0]]).norm(dim=1)
        scores.append(float(nearest.max()))
    for centre in labeled:
        nearest = torch.minimum(nearest, (pool - centre).norm(dim=1))
    while len(picked) < size:
        allowed = nearest.clone()
        allowed[picked] = -1
        passed_over = int(outlier_rate * (len(pool) - len(picked)))
        picked.append(int(allowed.argsort(descending=True, stable=True)[passed_over]))
        scores.append(float(nearest[picked[-1]]))
        nearest = torch.minimum(nearest, (pool - pool[picked[-1]]).norm(dim=1))
    return picked, scores


def select(
    pool: Tensor,
    labeled: Tensor,
    size: int,
    max_bytes: int = 1 << 30,
    normalize: bool = False,
    outlier_rate: float = 0.0,
) -> Selection:
    strategy = CoreSet(normalize, outlier_rate)
    view = PoolView(
        n=len(pool),
        pool=summary(strategy, pool),
        n_classes=2,
        labeled=summary(strategy, labeled),
        labels=torch.zeros(len(labeled), dtype=torch.int64),
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, torch.Generator().manual_seed(0))


def summary(strategy: CoreSet, features: Tensor) -> dict[str, Tensor]:
    log_probs = torch.full((len(features), 1, 2), 0.5).log()
    return strategy.summarize(Prediction(log_probs, features, log_probs[:, 0]))


def features(n: int, d: int, kind: str = "normal") -> Tensor:
    generator = torch.Generator().manual_seed(n + d)
    normal = torch.randn(n, d, generator=generator)
    if kind == "clustered":
        centres = 10 * torch.randn(7, d, generator=generator)
        return centres[torch.randint(7, (n,), generator=generator)] + 0.1 * normal
    if kind == "after_relu":
        return (normal + 1).relu() + 3
    return normal


@pytest.fixture(params=[nearest_centre._BLOCK, 8], ids=["wide", "narrow"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """With 8 candidates at a time the lazy bounds decide; with 1024 one block holds the whole pool."""
    monkeypatch.setattr(nearest_centre, "_BLOCK", request.param)
    monkeypatch.setattr(core_set, "_SPARE", request.param)
    return request.param


@pytest.mark.parametrize("kind", ["normal", "clustered", "after_relu"])
@pytest.mark.parametrize(
    ("n", "m", "size"), [(300, 40, 60), (300, 0, 60), (300, 1, 1), (300, 0, 1), (90, 200, 90), (90, 0, 90)]
)
def test_the_picks_and_distances_are_those_of_the_naive_rule(kind: str, n: int, m: int, size: int, block: int) -> None:
    everything = features(n + m, 8, kind)
    pool, labeled = everything[:n], everything[n:]
    positions, scores = naive_k_centre(pool, labeled, size)
    selection = select(pool, labeled, size)
    assert selection.positions.tolist() == positions
    torch.testing.assert_close(selection.scores, torch.tensor(scores), rtol=1e-5, atol=1e-5)
    assert selection.score_name == "distance"


@pytest.mark.parametrize("d", [2, 64])
def test_a_few_bytes_of_memory_change_nothing(d: int) -> None:
    pool, labeled = features(700, d), features(33, d)
    assert select(pool, labeled, 50, max_bytes=4096).positions.tolist() == naive_k_centre(pool, labeled, 50)[0]


def test_neighbours_far_from_the_origin_are_told_apart() -> None:
    pool, labeled = 1000 + features(200, 16), 1000 + features(20, 16)
    positions, _ = naive_k_centre(pool, labeled, 40)
    assert select(pool, labeled, 40).positions.tolist() == positions

    # The usual |x|² + |y|² - 2 x·y in float32 is noise here, so that the data above would expose it.
    norms = pool.square().sum(dim=1)
    in_float32 = norms[:, None] + norms - 2 * pool @ pool.T
    assert (in_float32.double() - torch.cdist(pool.double(), pool.double()).square()).abs().max() > 1


def test_the_choice_does_not_follow_the_precision_set_for_float32_products() -> None:
    before = torch.get_float32_matmul_precision()
    pool, labeled = 100 + features(200, 16), 100 + features(20, 16)
    try:
        torch.set_float32_matmul_precision("medium")
        assert select(pool, labeled, 40).positions.tolist() == naive_k_centre(pool, labeled, 40)[0]
    finally:
        torch.set_float32_matmul_precision(before)


def test_duplicates_are_left_while_distinct_images_remain(block: int) -> None:
    distinct = features(30, 5)
    pool = distinct.repeat_interleave(4, dim=0)
    positions = select(pool, torch.empty(0, 5), 120).positions
    assert len(set((positions[:30] // 4).tolist())) == 30
    assert sorted(positions.tolist()) == list(range(120))


def test_labelled_duplicates_are_left_too(block: int) -> None:
    pool = features(40, 5) + 100
    positions = select(pool, pool[:25], 40).positions.tolist()
    assert set(positions[:15]) == set(range(25, 40))
    assert sorted(positions) == list(range(40))


def test_a_pool_of_equal_or_zero_images_is_picked_without_repeats(block: int) -> None:
    for value in (0.0, 3.7):
        selection = select(torch.full((20, 3), value), torch.empty(0, 3), 20)
        assert sorted(selection.positions.tolist()) == list(range(20))
        assert torch.equal(selection.scores, torch.zeros(20))


def test_with_nothing_labelled_the_origin_is_no_ghost_centre() -> None:
    pool = 50 + features(100, 4)
    farthest_from_origin = int(pool.norm(dim=1).argmax())
    picked = select(pool, torch.empty(0, 4), 1).positions.tolist()
    assert picked == [int((pool - pool.mean(dim=0)).norm(dim=1).argmin())]
    assert picked != [farthest_from_origin]


def test_normalized_features_ignore_their_length() -> None:
    pool, labeled = features(200, 6), features(10, 6)
    lengths = torch.linspace(0.1, 30, 200)[:, None]
    unit = torch.nn.functional.normalize(pool)
    positions, _ = naive_k_centre(unit, torch.nn.functional.normalize(labeled), 20)
    assert select(pool * lengths, labeled, 20, normalize=True).positions.tolist() == positions
    assert select(pool * lengths, labeled, 20).positions.tolist() != positions


@pytest.mark.parametrize("kind", ["normal", "clustered", "after_relu"])
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.9])
@pytest.mark.parametrize(("n", "m", "size"), [(300, 40, 60), (300, 0, 60), (300, 1, 1), (90, 200, 90), (90, 0, 90)])
def test_the_robust_picks_are_those_of_the_naive_rule(
    kind: str, rate: float, n: int, m: int, size: int, block: int
) -> None:
    everything = features(n + m, 8, kind)
    pool, labeled = everything[:n], everything[n:]
    positions, scores = naive_k_centre(pool, labeled, size, rate)
    selection = select(pool, labeled, size, outlier_rate=rate)
    assert selection.positions.tolist() == positions
    torch.testing.assert_close(selection.scores, torch.tensor(scores), rtol=1e-5, atol=1e-5)
    assert select(pool, labeled, size, max_bytes=4096, outlier_rate=rate).positions.tolist() == positions


def test_the_robust_rule_passes_over_the_odd_images_that_the_plain_rule_buys(block: int) -> None:
    pool = features(190, 4)
    odd = 50 * torch.nn.functional.normalize(features(10, 4, "normal"))
    everything = torch.cat([pool, odd])
    assert set(range(190, 200)) <= set(select(everything, pool[:5], 12).positions.tolist())
    assert max(select(everything, pool[:5], 12, outlier_rate=0.06).positions.tolist()) < 190


def test_the_robust_rule_picks_every_image_once_among_duplicates(block: int) -> None:
    for pool in (features(30, 5).repeat_interleave(4, dim=0), torch.zeros(40, 3)):
        positions = select(pool, pool[:0], len(pool), outlier_rate=0.3).positions.tolist()
        assert sorted(positions) == list(range(len(pool)))


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_an_outlier_rate_out_of_range_is_named(rate: float) -> None:
    with pytest.raises(ConfigError, match=rf"outlier_rate from 0 to below 1, got {rate}"):
        CoreSet(outlier_rate=rate)


def test_nothing_as_large_as_the_pool_squared_or_a_copy_of_it_is_made() -> None:
    pool, labeled = features(5000, 64), features(300, 64)
    with LargestTensor() as largest:
        select(pool, labeled, 200, max_bytes=1 << 20)
    assert largest.nbytes <= 1 << 20 < pool.nbytes


def test_the_lazy_rule_looks_at_few_points_again(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = nearest_centre.NearestCentre.refresh

    def counted(self, positions=None):
        compared.append(len(self.bounds) if positions is None else len(positions))
        original(self, positions)

    monkeypatch.setattr(nearest_centre.NearestCentre, "refresh", counted)
    monkeypatch.setattr(nearest_centre, "_BLOCK", 64)
    select(features(3000, 32), features(50, 32), 100)
    assert sum(compared) < 0.02 * 3000 * 100


@pytest.mark.parametrize("where", ["pool", "labeled"])
def test_features_that_are_not_finite_are_an_error(where: str) -> None:
    pool, labeled = features(20, 4), features(5, 4)
    (pool if where == "pool" else labeled)[3, 1] = torch.nan
    with pytest.raises(
        StrategyError, match=r"finite features, got NaN or infinity for 1 of \d+ images \(the first: \[3\]\)"
    ):
        select(pool, labeled, 2)
