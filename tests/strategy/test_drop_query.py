"""DropQuery against a float64 loop with the same masks, and the properties of its dropout."""

import pytest
import torch
from torch import Tensor, nn

from alframe.engine import k_means as engine
from alframe.errors import ConfigError, StrategyError
from alframe.strategy import drop_query
from alframe.strategy.drop_query import DropQuery
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(c: int, d: int) -> nn.Linear:
    layer = nn.Linear(d, c)
    with torch.no_grad():
        layer.weight.normal_(generator=seeded(1))
        layer.bias.normal_(generator=seeded(2))
    return layer


DEFAULT = DropQuery()


def select(
    pool: Tensor,
    head: object,
    size: int,
    strategy: DropQuery = DEFAULT,
    seed: int = 0,
    max_bytes: int = 1 << 30,
    n_classes: int = 5,
) -> Selection:
    view = PoolView(n=len(pool), pool={"features": pool}, n_classes=n_classes, head=head, max_bytes=max_bytes)
    return strategy.select(view, size, seeded(seed))


def naive_mismatches(pool: Tensor, layer: nn.Linear, draws: int, rate: float, seed: int, rows: int) -> Tensor:
    """Image by image and pass by pass, in float64; uniform numbers come in blocks of `rows` images."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    generator = seeded(seed)
    found = []
    for block in pool.split(rows):
        uniform = torch.rand(len(block), draws, pool.shape[1], generator=generator)
        for i, h in enumerate(block.double()):
            label = int((weight @ h + bias).argmax())
            mismatches = 0
            for m in range(draws):
                dropped = torch.where(uniform[i, m] < rate, 0.0, h / (1 - rate))
                mismatches += int((weight @ dropped + bias).argmax()) != label
            found.append(mismatches)
    return torch.tensor(found)


@pytest.mark.parametrize(("c", "d"), [(2, 4), (5, 7), (100, 9)])
@pytest.mark.parametrize(("draws", "rate"), [(3, 0.75), (1, 0.5), (4, 0.2)])
@pytest.mark.parametrize("block", [64, 1 << 18])
def test_the_mismatches_are_those_of_the_naive_loop(
    c: int, d: int, draws: int, rate: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_query, "_BLOCK", block)
    rows = max(1, block // ((draws + 1) * max(d, c)))
    pool = torch.randn(50, d, generator=seeded(0))
    layer = linear(c, d)
    expected = naive_mismatches(pool, layer, draws, rate, 4, rows)
    selection = select(pool, layer, 5, DropQuery(draws, rate), seed=4, n_classes=c)
    torch.testing.assert_close(selection.pool_scores, expected / draws)
    assert torch.equal(selection.scores, selection.pool_scores[selection.positions])
    assert selection.score_name == "mismatch_rate"


def test_the_candidates_are_those_with_mismatches_in_more_than_half_of_the_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = {}
    original = engine.k_means
    monkeypatch.setattr(engine, "k_means", lambda p, *a, **o: original(seen.setdefault("points", p), *a, **o))
    pool = torch.randn(300, 7, generator=seeded(0))
    for strategy in (DropQuery(draws=3), DropQuery(draws=4), DropQuery(normalize=False)):
        seen.clear()
        selection = select(pool, linear(5, 7), 6, strategy)
        candidates = pool[selection.pool_scores > 0.5]
        assert 6 < len(candidates) < 300
        expected = nn.functional.normalize(candidates) if strategy.normalize else candidates
        torch.testing.assert_close(seen["points"], expected)
        assert (selection.scores > 0.5).all()


def test_the_picks_are_the_candidates_nearest_to_the_centres() -> None:
    """Six directions, each with many candidates: one of each."""
    centres = torch.eye(6)
    pool = (centres.repeat_interleave(30, dim=0) + 0.05 * torch.randn(180, 6, generator=seeded(0))).abs()
    # A feature alone decides each prediction, and dropping it leaves the bias: nearly all images are candidates.
    layer = nn.Linear(6, 7)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([torch.eye(6), torch.zeros(1, 6)]))
        layer.bias.copy_(torch.tensor([0.0] * 6 + [0.5]))
    selection = select(pool, layer, 6, n_classes=7)
    assert (selection.pool_scores > 0.5).sum() > 100
    assert sorted((selection.positions // 30).tolist()) == list(range(6))


def test_features_that_are_kept_are_scaled_up() -> None:
    """With one feature and the threshold at its value, dropout without 1 / (1 - rate) would never keep the prediction."""
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, 0.9]))
    seen = []

    def head(h: Tensor) -> Tensor:
        seen.append(h.clone())
        return layer(h)

    rates = select(torch.ones(4000, 1), head, 1, DropQuery(draws=3, rate=0.75), n_classes=2).pool_scores
    assert torch.cat(seen).unique().tolist() == [0.0, 1.0, 4.0]
    assert abs(float(rates.mean()) - 0.75) < 0.02


def test_each_image_and_each_pass_has_its_own_mask() -> None:
    seen = []

    def head(h: Tensor) -> Tensor:
        seen.append(h.clone())
        return h[:, :2]

    select(torch.ones(200, 32), head, 1, DropQuery(draws=3, rate=0.5), n_classes=2)
    passes = torch.cat(seen).view(200, 4, 32)
    assert torch.equal(passes[:, 0], torch.ones(200, 32))
    assert len(passes[:, 1:].flatten(0, 1).unique(dim=0)) == 600


@pytest.mark.parametrize("size", [10, 39, 40])
def test_with_too_few_candidates_those_with_most_mismatches_come_first(size: int) -> None:
    pool = torch.cat([torch.randn(4, 7, generator=seeded(0)), 0.01 * torch.randn(36, 7, generator=seeded(1))])
    layer = linear(5, 7)
    for seed in range(5):
        selection = select(pool, layer, size, DropQuery(draws=3), seed=seed)
        assert (selection.pool_scores > 0.5).sum() < size
        assert len(set(selection.positions.tolist())) == size
        assert selection.scores.tolist() == selection.pool_scores.sort(descending=True).values[:size].tolist()


def test_equal_mismatches_are_picked_by_the_generator_and_not_by_position() -> None:
    constant = lambda h: torch.tensor([[1.0, 0.0]]).expand(len(h), 2)  # noqa: E731
    picked = torch.stack([select(torch.ones(40, 3), constant, 4, seed=s, n_classes=2).positions for s in range(200)])
    counts = picked.flatten().bincount(minlength=40)
    assert counts.min() > 4  # 20 expected of each, deviation 4
    assert counts.max() < 40


@pytest.mark.parametrize("size", [1, 7, 60])
def test_duplicates_and_zero_vectors_are_picked_without_repeats(size: int) -> None:
    for pool in (torch.randn(12, 7, generator=seeded(0)).repeat_interleave(5, dim=0), torch.zeros(60, 7)):
        selection = select(pool, linear(5, 7), size)
        assert len(set(selection.positions.tolist())) == size
        assert selection.scores.isfinite().all()


def test_the_masks_do_not_follow_the_memory_bound() -> None:
    pool = torch.randn(2500, 64, generator=seeded(0))
    few, many = (select(pool, linear(5, 64), 20, max_bytes=bytes_) for bytes_ in (1 << 16, 1 << 40))
    assert torch.equal(few.pool_scores, many.pool_scores)
    assert torch.equal(few.positions, many.positions)


def test_the_head_never_sees_the_whole_pool_at_once() -> None:
    widths = []

    def head(h: Tensor) -> Tensor:
        widths.append(h.nbytes)
        return h[:, :5]

    select(torch.randn(20000, 64, generator=seeded(0)), head, 5)
    assert max(widths) <= 4 * drop_query._BLOCK
    assert len(widths) > 10


def test_more_candidates_than_max_points_are_thinned_at_random() -> None:
    pool = torch.randn(400, 7, generator=seeded(0))
    selections = [select(pool, linear(5, 7), 3, DropQuery(max_points=3), seed=s) for s in range(30)]
    assert all((selection.scores > 0.5).all() for selection in selections)
    assert len(torch.cat([selection.positions for selection in selections]).unique()) > 30


def test_the_head_is_left_without_gradients() -> None:
    layer = linear(5, 7)
    selection = select(torch.randn(30, 7, generator=seeded(0)), layer, 5)
    assert all(parameter.grad is None for parameter in layer.parameters())
    assert not selection.pool_scores.requires_grad


def test_only_the_features_of_the_deterministic_network_are_kept() -> None:
    draws = torch.randn(6, 9, 4, generator=seeded(0)).log_softmax(dim=2)
    h = torch.randn(6, 3, generator=seeded(1))
    summary = DropQuery().summarize(Prediction(draws, h, draws[:, 0]))
    assert summary.keys() == {"features"}
    assert torch.equal(summary["features"], h)


def test_features_that_are_not_finite_are_an_error() -> None:
    pool = torch.randn(20, 7, generator=seeded(0))
    pool[3, 1] = torch.inf
    with pytest.raises(StrategyError, match="finite features"):
        select(pool, linear(5, 7), 2)


@pytest.mark.parametrize("options", [{"draws": 0}, {"rate": 0.0}, {"rate": 1.0}, {"max_points": 0}])
def test_options_out_of_range_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        DropQuery(**options)
