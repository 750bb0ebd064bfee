"""BAIT against a float64 loop that inverts the information anew for every candidate of every step, and the traps of other implementations."""

import math

import pytest
import torch
from tests_support import LargestTensor
from torch import Tensor

from alframe.engine.fisher import Design, full_roots
from alframe.errors import ConfigError, StrategyError
from alframe.strategy.bait import Bait
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def predict(features: Tensor, c: int = 3, scale: float = 1.0) -> Prediction:
    """What a linear head says; the posterior's draws say something else."""
    weight = scale * torch.randn(features.shape[1], c, generator=seeded(c))
    draws = torch.randn(len(features), 2, c, generator=seeded(9)).log_softmax(dim=-1)
    return Prediction(draws, features, (features @ weight).log_softmax(dim=-1))


def features(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=seeded(seed)) * torch.linspace(0.3, 2, d)


def dense(prediction: Prediction, fisher: str) -> Tensor:
    """V of each image from the formula, float64 [n, w, r]."""
    h, p = prediction.features.double(), prediction.point_log_probs.double().exp()
    if fisher == "binary":
        top = p.amax(dim=1)
        return ((top * (1 - top)).sqrt()[:, None] * h)[:, :, None]
    gradients = torch.eye(p.shape[1], dtype=torch.float64) - p[:, None, :]  # row y: e_y - p
    return torch.einsum("ny,nyz,nd->nzdy", p.sqrt(), gradients, h).flatten(1, 2)


def naive_bait(
    pool: Tensor, labeled: Tensor, size: int, regularization: float, oversample: float
) -> tuple[list[int], list[float]]:
    """Forward and backward greedy of tr[M⁻¹ I]; every trace by an inverse of its own."""
    fisher = pool @ pool.mT
    target = fisher.mean(dim=0)
    information = regularization * torch.eye(pool.shape[1], dtype=torch.float64)
    information = information + (labeled @ labeled.mT).sum(dim=0)

    def trace(matrices: Tensor) -> Tensor:
        return (torch.linalg.inv(matrices) * target.T).sum(dim=(-2, -1))

    picked: list[int] = []
    scores: list[float] = []
    for _ in range(min(len(pool), max(size, math.ceil(oversample * size)))):
        traces = trace(information + fisher)
        traces[picked] = math.inf
        best = int(traces.argmin())
        scores.append(float(trace(information) - traces[best]))
        picked.append(best)
        information = information + fisher[best]
    kept = list(range(len(picked)))
    while len(kept) > size:
        traces = torch.stack([trace(information - fisher[picked[place]]) for place in kept])
        information = information - fisher[picked[kept.pop(int(traces.argmin()))]]
    return [picked[place] for place in kept], [scores[place] for place in kept]


def select(
    strategy: Bait,
    pool: Prediction,
    labeled: Prediction | None,
    size: int,
    *,
    seed: int = 0,
    max_bytes: int = 1 << 30,
) -> Selection:
    view = PoolView(
        n=len(pool.features),
        pool=strategy.summarize(pool),
        n_classes=pool.point_log_probs.shape[1],
        labeled=None if labeled is None else strategy.summarize(labeled),
        labels=None if labeled is None else torch.zeros(len(labeled.features), dtype=torch.int64),
        max_bytes=max_bytes,
    )
    return strategy.select(view, size, seeded(seed))


@pytest.mark.parametrize("fisher", ["binary", "full"])
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize(
    ("n", "m", "size", "oversample"), [(40, 10, 6, 2.0), (40, 0, 6, 2.0), (40, 3, 1, 1.0), (30, 60, 20, 2.0)]
)
def test_the_picks_and_scores_are_those_of_the_naive_rule(
    fisher: str, c: int, n: int, m: int, size: int, oversample: float
) -> None:
    pool, labeled = predict(features(n, 4), c), predict(features(m, 4, seed=1), c)
    strategy = Bait(fisher, 0.5, oversample)
    positions, scores = naive_bait(dense(pool, fisher), dense(labeled, fisher), size, 0.5, oversample)
    selection = select(strategy, pool, labeled, size)
    assert selection.positions.tolist() == positions
    torch.testing.assert_close(selection.scores.double(), torch.tensor(scores).double(), rtol=1e-4, atol=1e-9)
    assert selection.score_name == "trace_decrease"


@pytest.mark.parametrize("fisher", ["binary", "full"])
def test_the_backward_steps_change_the_batch(fisher: str) -> None:
    pool, labeled = predict(features(60, 6)), predict(features(5, 6, seed=1))
    forward = select(Bait(fisher, 0.1, 1.0), pool, labeled, 4).positions.tolist()
    both = select(Bait(fisher, 0.1, 3.0), pool, labeled, 4).positions.tolist()
    assert both == naive_bait(dense(pool, fisher), dense(labeled, fisher), 4, 0.1, 3.0)[0]
    assert set(both) != set(forward)


def test_no_number_of_classes_or_features_is_built_in() -> None:
    pool, labeled = predict(features(30, 3), 100), predict(features(5, 3, seed=1), 100)
    for fisher in ("binary", "full"):
        expected, _ = naive_bait(dense(pool, fisher), dense(labeled, fisher), 3, 1.0, 1.0)
        assert select(Bait(fisher, 1.0, 1.0), pool, labeled, 3).positions.tolist() == expected


def test_with_two_classes_both_forms_agree_when_regularization_is_twice_as_large_in_the_full_one() -> None:
    pool, labeled = predict(features(80, 5), 2), predict(features(7, 5, seed=1), 2)
    binary = select(Bait("binary", 0.3), pool, labeled, 10).positions.tolist()
    assert select(Bait("full", 0.6), pool, labeled, 10).positions.tolist() == binary


def test_the_regularization_matters() -> None:
    pool = predict(features(200, 6))
    choices = {tuple(select(Bait(regularization=value), pool, None, 10).positions.tolist()) for value in (1e-2, 1e2)}
    assert len(choices) == 2


def test_the_chances_are_the_point_networks_and_not_the_posterior_means() -> None:
    pool = predict(features(20, 3))
    other = Prediction(pool.log_probs.flip(0), pool.features, pool.point_log_probs)
    for fisher in ("binary", "full"):
        ours, theirs = Bait(fisher).summarize(pool), Bait(fisher).summarize(other)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_confident_image_keeps_its_weight() -> None:
    log_probs = torch.tensor([[0.0, -30.0, -31.0]])
    prediction = Prediction(log_probs[:, None], torch.ones(1, 2), log_probs)
    wrong = math.exp(-30) + math.exp(-31)
    assert float(Bait().summarize(prediction)["weight"]) == pytest.approx(wrong, rel=1e-5)
    assert 1 - float(log_probs.exp().max()) == 0
    root = full_roots(Bait("full").summarize(prediction), slice(None))[0]
    p = torch.tensor([1 - wrong, math.exp(-30), math.exp(-31)], dtype=torch.float64)
    expected = torch.diag(p) - torch.outer(p, p)
    expected[0, 0] = wrong * (1 - wrong)
    torch.testing.assert_close(root @ root.T, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(("fisher", "n", "size"), [("binary", 200, 60), ("full", 150, 40)])
@pytest.mark.parametrize("regularization", [1.0, 1e-6])
def test_hundreds_of_updates_do_not_drift(
    fisher: str, n: int, size: int, regularization: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, labeled = predict(features(n, 6), 3, scale=2.0), predict(features(4, 6, seed=1), 3, scale=2.0)
    left_to_drift = select(Bait(fisher, regularization), pool, labeled, size)

    def everything_anew(design: Design) -> None:
        design._invert()
        design._evaluate(torch.arange(len(design.features)))

    monkeypatch.setattr(Design, "_keep_digits", everything_anew)
    anew = select(Bait(fisher, regularization), pool, labeled, size)
    assert left_to_drift.positions.tolist() == anew.positions.tolist()
    torch.testing.assert_close(left_to_drift.scores, anew.scores, rtol=1e-5, atol=1e-12)


def test_the_state_follows_the_matrices_through_picks_and_drops() -> None:
    pool = predict(features(50, 4), 3)
    strategy = Bait("full", 0.1)
    summary = strategy.summarize(pool)
    view = PoolView(n=50, pool=summary, n_classes=3)
    design = strategy._start(view, full_roots)
    for position, sign in ((3, 1), (7, 1), (3, -1), (20, 1), (7, -1)):
        design.update(position, sign)
    v = dense(pool, "full")
    information = 0.1 * torch.eye(12, dtype=torch.float64) + v[20] @ v[20].T
    target = (v @ v.mT).mean(dim=0)
    inverse = information.inverse()
    torch.testing.assert_close(design.leverage.diagonal(dim1=1, dim2=2).sum(1), (v.mT @ inverse @ v).diagonal(dim1=1, dim2=2).sum(1), rtol=1e-6, atol=1e-9)  # fmt: skip
    benefit = v.mT @ inverse @ target @ inverse @ v
    torch.testing.assert_close(design.benefit.diagonal(dim1=1, dim2=2).sum(1), benefit.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-6, atol=1e-9)  # fmt: skip


@pytest.mark.parametrize("fisher", ["binary", "full"])
def test_duplicates_and_zero_vectors_are_picked_once_each(fisher: str) -> None:
    one = features(8, 3)
    pool = predict(torch.cat([one.repeat_interleave(3, dim=0), torch.zeros(6, 3)]))
    for size in (1, 5, 30):
        selection = select(Bait(fisher), pool, None, size)
        assert len(set(selection.positions.tolist())) == size
        assert selection.scores.isfinite().all()
    assert set(selection.positions[-6:].tolist()) == set(range(24, 30))
    assert selection.scores[-6:].tolist() == [0.0] * 6


@pytest.mark.parametrize("fisher", ["binary", "full"])
def test_images_that_tell_nothing_are_drawn_at_random(fisher: str) -> None:
    certain = torch.tensor([[0.0, -math.inf, -math.inf]]).expand(40, 3)
    pool = Prediction(certain[:, None], features(40, 3), certain)
    choices = {tuple(select(Bait(fisher), pool, None, 3, seed=seed).positions.tolist()) for seed in range(6)}
    assert len(choices) == 6
    assert select(Bait(fisher), pool, pool, 3).scores.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("fisher", ["binary", "full"])
def test_ties_follow_the_generator_and_not_the_position(fisher: str) -> None:
    pool = predict(features(1, 3).expand(30, 3))
    firsts = {int(select(Bait(fisher), pool, None, 1, seed=seed).positions[0]) for seed in range(12)}
    assert len(firsts) > 4


@pytest.mark.parametrize("fisher", ["binary", "full"])
def test_memory_changes_nothing(fisher: str) -> None:
    pool, labeled = predict(features(300, 6)), predict(features(30, 6, seed=1))
    few = 1 << 17 if fisher == "full" else 1 << 14
    roomy, tight = (select(Bait(fisher), pool, labeled, 30, max_bytes=size) for size in (1 << 30, few))
    assert tight.positions.tolist() == roomy.positions.tolist()


def test_nothing_as_large_as_the_pool_is_made() -> None:
    pool = predict(features(8000, 32))
    with LargestTensor() as largest:
        select(Bait(), pool, None, 5, max_bytes=1 << 18)
    assert largest.nbytes <= 1 << 18 < pool.features.nbytes


def test_a_full_form_that_does_not_fit_says_what_to_do() -> None:
    pool = predict(features(50, 100), 20)
    with pytest.raises(StrategyError, match=r"20 classes by 100 features and 50 images; set fisher to binary"):
        select(Bait("full"), pool, None, 5, max_bytes=1 << 20)
    assert len(select(Bait("binary"), pool, None, 5, max_bytes=1 << 20).positions) == 5


def test_a_regularization_lost_to_rounding_is_named() -> None:
    pool, labeled = predict(features(50, 5)), predict(features(2, 5, seed=1))
    huge = [Prediction(of.log_probs, 1e4 * of.features, of.point_log_probs) for of in (pool, labeled)]
    with pytest.raises(StrategyError, match=r"raise the regularization"):
        select(Bait(regularization=1e-12), *huge, 5)


@pytest.mark.parametrize("where", ["pool", "labeled"])
def test_features_that_are_not_finite_are_an_error(where: str) -> None:
    pool, labeled = features(20, 4), features(5, 4, seed=1)
    probs = predict(pool), predict(labeled)
    (pool if where == "pool" else labeled)[3, 1] = torch.nan
    with pytest.raises(StrategyError, match=r"finite features, got NaN or infinity for 1 of \d+ images"):
        select(Bait(), *probs, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regularization": 0.0}, "regularization of at least 1e-12, got 0.0"),
        ({"oversample": 0.5}, "oversample of at least 1, got 0.5"),
    ],
)
def test_options_out_of_range_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bait(**options)
