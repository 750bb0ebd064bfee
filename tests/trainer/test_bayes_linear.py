"""The Bayesian head in a learner: what it is fitted to, its posteriors, and what it cannot be combined with."""

from pathlib import Path

import pytest
import torch
from scipy.stats import beta
from torch import Tensor

from alframe.budget import Budget
from alframe.errors import ConfigError
from alframe.experiment import check_parts
from alframe.images import Data, ImageSet
from alframe.learner import POOL, Learner, Sets
from alframe.model.frozen import FeatureHead, Frozen
from alframe.model.small_cnn import SmallCNN
from alframe.strategy.random import Random
from alframe.trainer.base import Fitter
from alframe.trainer.bayes_linear import BayesLinear
from alframe.trainer.trainer import Trainer
from alframe.types import Examples, Prediction
from alframe.uncertainty.base import Posterior, Uncertainty
from alframe.uncertainty.ensemble import Ensemble
from alframe.uncertainty.laplace import Laplace
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.point import Point
from alframe.uncertainty.shifted import Shifted
from alframe.uncertainty.snapshot import Snapshot
from alframe.uncertainty.tempered import restore

N, D = 400, 20
ALL = torch.arange(N)


def features(seed: int = 0, rate: float = 0.1) -> ImageSet:
    """Features of two classes, `rate` of them class 1, that overlap."""
    rng = torch.Generator().manual_seed(seed)
    labels = (torch.rand(N, generator=rng) < rate).long()
    pixels = torch.randn(N, D, generator=rng)
    pixels[:, :4] += 1.2 * labels[:, None]
    return ImageSet(pixels.numpy(), labels.numpy(), ("good", "defect"))


def learner(uncertainty: Uncertainty, trainer: Fitter | None = None) -> Learner:
    images = features()
    data = Data("features", images, features(1))
    return Learner(Sets(data), lambda shape, c: FeatureHead(shape, c), trainer or BayesLinear(), uncertainty)


def labelled(n: int = 60, drawn: bool = True) -> Examples:
    rows = torch.arange(n)
    return Examples(rows, torch.from_numpy(features().labels)[rows], drawn=torch.full((n,), drawn))


NONE = Examples(ALL[:0], ALL[:0])


def test_the_mean_of_few_draws_is_the_posterior_mean() -> None:
    few, many = learner(Laplace(draws=20)), learner(Laplace(draws=2000))
    for one in (few, many):
        one.fit(labelled(), NONE, 0)
    a, b = (one.mean_log_probs(POOL, ALL).exp()[:, 1] for one in (few, many))
    assert float((a - b).abs().max()) < 0.02
    assert float((a.argsort().argsort() - b.argsort().argsort()).abs().double().mean()) < 5, "nearly the same ranking"


def test_the_variance_of_the_draws_is_exact_for_every_image() -> None:
    one = learner(Laplace(draws=8), BayesLinear(match_pool=False))
    one.fit(labelled(), NONE, 0)
    log_probs = torch.cat([p.log_probs for p in one.predictions(POOL, ALL)])
    odds = (log_probs[..., 1] - log_probs[..., 0]).double()
    another = learner(Laplace(draws=4000), BayesLinear(match_pool=False))
    another.fit(labelled(), NONE, 0)
    posterior = another.fitted
    x = torch.cat([x for x, _ in another.batches(POOL, ALL)])
    z = torch.cat([x, torch.ones(N, 1)], dim=1)
    drawn = torch.einsum("bd,kdc->bkc", z, posterior.weights).diff(dim=2)[..., 0].double()  # type: ignore[attr-defined]
    assert torch.allclose(odds.var(1, correction=0), drawn.var(1), rtol=0.25)


def test_shown_probabilities_have_the_shares_of_the_pool_and_queries_do_not_see_the_shift() -> None:
    rare = torch.from_numpy(features().labels)
    chosen = torch.cat([rare.nonzero()[:, 0][:20], (rare == 0).nonzero()[:, 0][:40]])
    drawn = torch.zeros(60, dtype=torch.bool)
    drawn[20:] = True  # the random ones are all good
    examples = Examples(chosen, rare[chosen], drawn=drawn)
    shifted, plain = learner(Laplace()), learner(Laplace(), BayesLinear(match_pool=False))
    numbers = shifted.fit(examples, NONE, 0)
    plain.fit(examples, NONE, 0)
    before, after = (float(one.mean_log_probs(POOL, ALL).exp()[:, 1].mean()) for one in (plain, shifted))
    bound = beta.ppf(0.95, 0.5, 40.5)
    assert before > bound, "otherwise nothing is shifted"
    assert after == pytest.approx(bound, abs=1e-4)
    assert numbers["posterior/shift"] < 0
    for a, b in zip(shifted.predictions(POOL, ALL), plain.predictions(POOL, ALL), strict=True):
        assert torch.equal(a.log_probs, b.log_probs)
    assert isinstance(shifted.fitted, Shifted)


def test_without_random_images_nothing_is_shifted() -> None:
    one = learner(Laplace())
    assert one.fit(labelled(drawn=False), NONE, 0)["posterior/shift"] == 0


def test_members_of_an_ensemble_differ_and_a_point_is_the_mode() -> None:
    ensemble, point = learner(Ensemble(members=3)), learner(Point())
    for one in (ensemble, point):
        one.fit(labelled(), NONE, 0)
    draws = next(ensemble.predictions(POOL, ALL)).log_probs
    assert float(draws.std(dim=1).min()) > 0
    again = learner(Ensemble(members=3))
    again.fit(labelled(), NONE, 0)
    assert torch.equal(draws, next(again.predictions(POOL, ALL)).log_probs)


def test_a_soft_label_counts_by_its_parts() -> None:
    hard = labelled(40)
    soft = torch.nn.functional.one_hot(hard.labels, 2).float()
    same, half = learner(Point()), learner(Point(), BayesLinear(match_pool=False))
    plain = learner(Point())
    plain.fit(hard, NONE, 0)
    same.fit(Examples(hard.rows, hard.labels, soft, hard.drawn), NONE, 0)
    half.fit(Examples(hard.rows, hard.labels, torch.full_like(soft, 0.5), hard.drawn), NONE, 0)
    assert torch.allclose(same.mean_log_probs(POOL, ALL), plain.mean_log_probs(POOL, ALL), atol=1e-5)
    assert torch.allclose(half.mean_log_probs(POOL, ALL).exp(), torch.tensor(0.5), atol=1e-3)


@pytest.mark.parametrize("uncertainty", [Laplace(), Ensemble(members=2), Point()])
def test_a_stored_round_and_an_export_predict_the_same(uncertainty: Uncertainty, tmp_path: Path) -> None:
    one = learner(uncertainty)
    one.fit(labelled(), NONE, 3)
    one.save(tmp_path / "weights.safetensors")
    expected = one.mean_log_probs(POOL, ALL)
    again = learner(uncertainty)
    again.restore(tmp_path / "weights.safetensors", labelled(), NONE, 3)
    assert torch.equal(again.mean_log_probs(POOL, ALL), expected)
    exported = restore(uncertainty, one.fitted.networks, one.fitted.state)
    x = torch.cat([x for x, _ in one.batches(POOL, ALL)])
    assert torch.allclose(exported.predict(x).mean_log_probs, expected, atol=1e-6)


@pytest.mark.parametrize("uncertainty", [MCDropout(), Snapshot()])
def test_what_needs_training_steps_fails_in_one_line(uncertainty: Uncertainty) -> None:
    with pytest.raises(ConfigError, match=r"Expected uncertainty=laplace, ensemble, tta or point .*; use trainer=sgd"):
        check_parts(Random(), uncertainty, BayesLinear(), Budget(), Frozen())
    check_parts(Random(), uncertainty, Trainer(), Budget(), Frozen())


@pytest.mark.parametrize("model", [Frozen(hidden=8), Frozen(freeze_until=2), SmallCNN])
def test_another_model_fails_in_one_line(model: object) -> None:
    with pytest.raises(ConfigError, match=r"Expected model=frozen .* got another model; use trainer=sgd"):
        check_parts(Random(), Laplace(), BayesLinear(), Budget(), model)  # type: ignore[arg-type]


def test_a_prior_precision_of_ones_own_fails_in_one_line() -> None:
    with pytest.raises(ConfigError, match="Expected uncertainty.prior_precision=null"):
        check_parts(Random(), Laplace(prior_precision=1.0), BayesLinear(), Budget(), Frozen())


@pytest.mark.parametrize("counts", [[25, 0], [40, 0], [24, 1], [45, 2]])
def test_random_images_that_fit_what_a_sure_classifier_predicts_move_nothing(counts: list[int]) -> None:
    """Two per cent of defects, told apart without a mistake: forty random images without one are no news."""
    odds = torch.where(torch.arange(1000) < 20, 6.0, -6.0) + torch.randn(
        1000, generator=torch.Generator().manual_seed(0)
    )
    log_probs = torch.stack([-odds / 2, odds / 2], dim=1).log_softmax(1)

    class Known(Posterior):
        def predict(self, x: Tensor, augmented: object = None) -> Prediction:
            return Prediction(log_probs[:, None], torch.zeros(1000, 1), log_probs)

    known = Known()
    known.networks = []
    found = Shifted.fit(known, [(torch.zeros(1000, 1), lambda j: torch.zeros(1))], torch.tensor(counts))
    assert not found.shift.any()
