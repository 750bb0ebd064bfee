"""ALFA-Mix against a float64 loop with the published α, and the traps of other implementations."""

import math

import pytest
import torch
from torch import Tensor, nn

from alframe.engine import k_means as engine
from alframe.errors import ConfigError, StrategyError
from alframe.strategy import alfa_mix
from alframe.strategy.alfa_mix import AlfaMix
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(c: int, d: int, seed: int = 1) -> nn.Linear:
    layer = nn.Linear(d, c)
    with torch.no_grad():
        layer.weight.normal_(generator=seeded(seed))
        layer.bias.normal_(generator=seeded(seed + 1))
    return layer


def two_layers(c: int, d: int) -> nn.Sequential:
    """A head that bends: mixing further may change a prediction back."""
    return nn.Sequential(linear(12, d, seed=5), nn.Tanh(), linear(c, 12))


def naive_candidates(pool: Tensor, labeled: Tensor, labels: Tensor, head: nn.Module, size: int, cap: float) -> Tensor:
    """For each image the step r at which it became a candidate, 0 for never: image by image, class by class, with α as published."""
    head = head.double()
    pool, labeled = pool.double(), labeled.double()
    means = [labeled[labels == c].mean(dim=0) for c in sorted(set(labels.tolist()))]
    step = torch.zeros(len(pool), dtype=torch.int64)
    for r in range(1, math.ceil(1 / cap) + 1):
        epsilon = cap * r / math.sqrt(pool.shape[1])
        for i in range(len(pool)):
            z = pool[i].clone().requires_grad_()
            logits = head(z)
            label = int(logits.argmax())
            (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.tensor(label)), z)
            z = z.detach()
            for mean in means:
                alpha = epsilon * (mean - z).norm() * gradient / (gradient.norm() * (mean - z))
                alpha[mean == z] = 0  # any α mixes two equal values into the same
                alpha = alpha.nan_to_num(0.0)  # no gradient, no direction
                changed = int(head(alpha * mean + (1 - alpha) * z).argmax()) != label
                if changed and step[i] == 0:
                    step[i] = r
        if (step > 0).sum() > size:
            break
    head.float()
    return step


DEFAULT = AlfaMix()


def select(
    pool: Tensor,
    labeled: Tensor,
    labels: Tensor,
    head: object,
    size: int,
    strategy: AlfaMix = DEFAULT,
    seed: int = 0,
    max_bytes: int = 1 << 30,
) -> Selection:
    view = PoolView(
        n=len(pool),
        pool={"features": pool},
        n_classes=100,
        labeled={"features": labeled},
        labels=labels,
        head=head,
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, seeded(seed))


def problem(n: int = 60, m: int = 24, c: int = 5, d: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.randn(n + m, d, generator=seeded(seed))
    return features[:n], features[n:], torch.randint(c, (m,), generator=seeded(seed + 1))


NOTHING = torch.zeros(0, dtype=torch.int64)


def instability(step: Tensor, cap: float) -> Tensor:
    return torch.where(step > 0, 1 - (step - 1) / math.ceil(1 / cap), 0).float()


@pytest.mark.parametrize("build", [linear, two_layers])
@pytest.mark.parametrize(("c", "d"), [(2, 4), (5, 7), (100, 9)])
@pytest.mark.parametrize("size", [1, 10, 40])
@pytest.mark.parametrize("cap", [0.05, 0.2, 0.3, 1.0])
def test_the_candidates_are_those_of_the_naive_loop(build, c: int, d: int, size: int, cap: float) -> None:
    pool, labeled, labels = problem(40, 12, c, d)
    head = build(c, d)
    step = naive_candidates(pool, labeled, labels, head, size, cap)
    selection = select(pool, labeled, labels, head, size, AlfaMix(alpha_cap=cap))
    torch.testing.assert_close(selection.pool_scores, instability(step, cap))
    assert selection.score_name == "instability"
    assert torch.equal(selection.scores, selection.pool_scores[selection.positions])


def test_the_picks_are_the_candidates_nearest_to_k_means_centres_by_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def remembered(points, k, generator, **options):
        seen["points"], seen["clusters"] = points, original(points, k, generator, **options)
        return seen["clusters"]

    original = engine.k_means
    monkeypatch.setattr(engine, "k_means", remembered)
    pool, labeled, labels = problem(200)
    selection = select(pool, labeled, labels, linear(5, 7), 8)
    candidates = selection.pool_scores.nonzero().squeeze(1)
    assert 8 < len(candidates) < 200
    torch.testing.assert_close(seen["points"], nn.functional.normalize(pool[candidates]))
    expected = []
    for cluster in range(8):
        members = (seen["clusters"].labels == cluster).nonzero().squeeze(1)
        centre = seen["points"][members].double().mean(dim=0)
        expected.append(int(candidates[members[(seen["points"][members] - centre).norm(dim=1).argmin()]]))
    assert sorted(selection.positions.tolist()) == sorted(expected)


def test_features_as_they_are_can_be_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = engine.k_means
    monkeypatch.setattr(engine, "k_means", lambda p, *a, **o: original(seen.setdefault("points", p), *a, **o))
    pool, labeled, labels = problem(200)
    selection = select(pool, labeled, labels, linear(5, 7), 8, AlfaMix(normalize=False))
    assert torch.equal(seen["points"], pool[selection.pool_scores > 0])


def test_epsilon_grows_until_there_are_more_candidates_than_asked_for() -> None:
    pool, labeled, labels = problem(300)
    head = linear(5, 7)
    few = select(pool, labeled, labels, head, 5)
    many = select(pool, labeled, labels, head, 150)
    assert (few.pool_scores > 0).sum() > 5
    assert set(few.pool_scores.unique().tolist()) == {0.0, 1.0}  # one ε was enough
    assert len(many.pool_scores.unique()) > 2  # and here it was not
    assert (many.pool_scores > 0).sum() > 150


def test_classes_without_a_label_have_no_mean() -> None:
    """The mean of nothing is NaN; the mean of all labelled images (in the authors' code) would be another anchor."""
    head = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0]]))
    pool = torch.tensor([[0.02, -1.0], [0.3, -1.0]])
    labeled = torch.tensor([[0.02, -1.2], [0.02, -0.9]])
    scores = select(pool, labeled, torch.tensor([1, 1]), head, 1).pool_scores
    expected = instability(naive_candidates(pool, labeled, torch.tensor([1, 1]), head, 1, 0.2), 0.2)
    torch.testing.assert_close(scores, expected)
    assert torch.equal(scores, select(pool, labeled, torch.tensor([2, 2]), head, 1).pool_scores)


@pytest.mark.parametrize("gap", [1e-7, -1e-7, -1e-8, 1e-9, -1e-12])
def test_features_that_all_but_equal_the_mean_are_mixed_with_the_right_sign(gap: float) -> None:
    """(z* - z) + 1e-8 has another sign than z* - z here, or is 0."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    pool = torch.tensor([[0.01, 0.0], [5.0, 0.0]], dtype=torch.float64)
    mean = pool[:1] + torch.tensor([[gap, 1.0]], dtype=torch.float64)
    selection = select(pool, mean, torch.tensor([0]), head.double(), 1)
    assert selection.pool_scores[0] == 1  # a step of 0.2 / √2 against feature 0, whatever the sign of the gap


def test_a_feature_that_equals_the_mean_stays_as_it_is() -> None:
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    pool = torch.tensor([[0.01, 0.0], [0.02, 0.0]])
    selection = select(pool, torch.tensor([[0.01, 1.0]]), torch.tensor([0]), head, 1)
    assert selection.pool_scores.tolist() == [0.0, 1.0]


def test_an_image_that_equals_every_mean_and_a_head_without_gradient_give_no_candidate() -> None:
    pool = torch.ones(6, 3)
    assert torch.equal(select(pool, pool[:2], torch.tensor([0, 1]), linear(2, 3), 3).pool_scores, torch.zeros(6))
    pool, labeled, labels = problem()
    flat = select(pool, labeled, labels, lambda z: 0 * z[:, :5] + torch.tensor([1.0, 0, 0, 0, 0]), 60)
    assert torch.equal(flat.pool_scores, torch.zeros(60))
    assert sorted(flat.positions.tolist()) == list(range(60))


def test_a_confident_prediction_keeps_the_direction_of_its_gradient() -> None:
    """p - e_ŷ is exactly 0 in float32 when the other classes have less than 1e-45."""
    head = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1000.0, 0.0], [-1000.0, 0.0]]))
    pool = torch.tensor([[0.1, 0.0], [50.0, 0.0]])
    assert head(pool).softmax(dim=1)[0].tolist() == [1.0, 0.0]
    assert select(pool, torch.tensor([[0.2, 1.0]]), torch.tensor([0]), head, 1).pool_scores[0] == 1


@pytest.mark.parametrize("size", [20, 60])
def test_with_too_few_candidates_all_are_taken_and_the_rest_is_random_without_repeats(size: int) -> None:
    pool, labeled, labels = problem()
    head = linear(5, 7)
    with torch.no_grad():
        head.weight[:, 0] = torch.tensor([100.0, 0, 0, 0, 0])
    pool[:, 0], labeled[:, 0], pool[:5, 0] = 10, 10, 0  # feature 0 decides for all but five, and cannot be mixed
    selections = [select(pool, labeled, labels, head, size, seed=seed) for seed in range(20)]
    candidates = selections[0].pool_scores.nonzero().squeeze(1).tolist()
    assert 0 < len(candidates) < size
    for selection in selections:
        positions = selection.positions.tolist()
        assert len(set(positions)) == size
        assert set(candidates) == set(positions[: len(candidates)])
        assert (selection.scores[len(candidates) :] == 0).all()
        assert selection.scores.diff().max() <= 0
    fills = torch.stack([selection.positions[len(candidates) :] for selection in selections])
    assert len(fills.unique(dim=0)) == 20


def test_with_nothing_labelled_the_whole_pool_is_clustered() -> None:
    centres = 10 * torch.eye(6)
    pool = centres.repeat_interleave(20, dim=0) + 0.1 * torch.randn(120, 6, generator=seeded(0))
    selection = select(pool, pool[:0], NOTHING, linear(4, 6), 6)
    assert sorted((selection.positions // 20).tolist()) == list(range(6))
    assert torch.equal(selection.pool_scores, torch.zeros(120))


@pytest.mark.parametrize("size", [1, 7, 60])
def test_duplicates_and_zero_vectors_are_picked_without_repeats(size: int) -> None:
    pool, labeled, labels = problem(12)
    for repeated in (pool.repeat_interleave(5, dim=0), torch.zeros(60, 7)):
        for some in (labeled, labeled[:0]):
            selection = select(repeated, some, labels[: len(some)], linear(5, 7), size)
            assert len(set(selection.positions.tolist())) == size
            assert selection.scores.isfinite().all()


def test_no_forward_pass_is_wider_than_the_memory_bound_and_candidates_are_not_looked_at_again() -> None:
    pool, labeled, labels = problem(3000, d=8)
    widths = []
    layer = linear(5, 8)

    def head(z: Tensor) -> Tensor:
        widths.append(len(z))
        return layer(z)

    bounded = select(pool, labeled, labels, head, 1500, max_bytes=1 << 14)
    assert max(widths) * 8 * 4 <= 1 << 14
    per_step = 3000 * (1 + len(labels.unique()))
    steps = len(bounded.pool_scores.unique()) - 1
    assert steps > 1
    assert sum(widths) < steps * per_step
    assert torch.equal(bounded.pool_scores, select(pool, labeled, labels, layer, 1500).pool_scores)


def test_more_candidates_than_max_points_are_thinned_at_random() -> None:
    pool, labeled, labels = problem(500)
    picked = [
        select(pool, labeled, labels, linear(5, 7), 3, AlfaMix(max_points=3), seed=s).positions for s in range(30)
    ]
    candidates = select(pool, labeled, labels, linear(5, 7), 3).pool_scores.nonzero().squeeze(1)
    chosen = torch.stack(picked).unique()
    assert set(chosen.tolist()) <= set(candidates.tolist())
    assert len(chosen) > 30


def test_the_head_is_left_without_gradients_and_may_work_in_place() -> None:
    pool, labeled, labels = problem()
    layer = linear(5, 7)
    plain = select(pool, labeled, labels, layer, 10)
    assert all(parameter.grad is None for parameter in layer.parameters())
    with torch.no_grad():
        in_place = select(pool, labeled, labels, lambda z: layer(z.mul_(2).div_(2)), 10)
    assert torch.equal(plain.positions, in_place.positions)
    assert not plain.pool_scores.requires_grad


def test_only_the_features_of_the_deterministic_network_are_kept() -> None:
    draws = torch.randn(6, 9, 4, generator=seeded(0)).log_softmax(dim=2)
    h = torch.randn(6, 3, generator=seeded(1))
    summary = AlfaMix().summarize(Prediction(draws, h, draws[:, 0]))
    assert summary.keys() == {"features"}
    assert torch.equal(summary["features"], h)


@pytest.mark.parametrize("where", ["pool", "labeled"])
def test_features_that_are_not_finite_are_an_error(where: str) -> None:
    pool, labeled, labels = problem()
    (pool if where == "pool" else labeled)[3, 1] = torch.nan
    with pytest.raises(StrategyError, match="finite features"):
        select(pool, labeled, labels, linear(5, 7), 2)


@pytest.mark.parametrize("options", [{"alpha_cap": 0.0}, {"alpha_cap": 1.1}, {"max_points": 0}])
def test_options_out_of_range_are_errors(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        AlfaMix(**options)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_the_chunk_size_does_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, labeled, labels = problem(150)
    expected = select(pool, labeled, labels, two_layers(5, 7), 12)
    monkeypatch.setattr(alfa_mix, "rows_within", lambda *_: rows)
    assert torch.equal(select(pool, labeled, labels, two_layers(5, 7), 12).positions, expected.positions)
