"""Against a plain float64 logistic regression in weight space, fitted by SciPy and with its whole Hessian."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from alframe.engine import bayes_linear
from alframe.engine.bayes_linear import TEMPER, LinearPosterior, fit_given, latent_variance, to_logits

VARIANCE, SD = 3.0, 1.5


def problem(n: int, d: int, c: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features, one-hot and a few soft targets, and how often each image counts."""
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=rng, dtype=torch.float64)
    labels = (features @ torch.randn(d, c, generator=rng, dtype=torch.float64)).argmax(1)
    targets = torch.nn.functional.one_hot(labels, c).double()
    targets[:2] = 1 / c
    return features, targets, 0.5 + torch.rand(n, generator=rng, dtype=torch.float64)


def naive(features: Tensor, targets: Tensor, counts: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The mode [d + 1, l] over weights and intercepts, and the Hessian of each latent there, [l, d + 1, d + 1]."""
    z = np.concatenate([features.numpy(), np.ones((len(features), 1))], axis=1)
    c = targets.shape[1]
    logits = np.array([[-0.5, 0.5]]) if c == 2 else np.eye(c)
    precision = np.append(np.full(z.shape[1] - 1, features.shape[1] / VARIANCE), 1 / SD**2)

    def p_of(w: np.ndarray) -> np.ndarray:
        scores = z @ w @ logits
        e = np.exp(scores - scores.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def loss(flat: np.ndarray) -> float:
        w = flat.reshape(z.shape[1], len(logits))
        return (
            -(counts.numpy()[:, None] * targets.numpy() * np.log(p_of(w))).sum()
            + 0.5 * (precision[:, None] * w**2).sum()
        )

    found = minimize(loss, np.zeros(z.shape[1] * len(logits)), method="BFGS", options={"gtol": 1e-7})
    mode = found.x.reshape(z.shape[1], len(logits))
    p = p_of(mode)
    hessians = []
    for row in logits:
        curvature = counts.numpy() * ((p * row**2).sum(1) - (p * row).sum(1) ** 2)
        hessians.append((z * curvature[:, None]).T @ z + np.diag(precision))
    return mode, np.array(hessians)


def given(n: int, d: int, c: int) -> tuple[LinearPosterior, tuple[Tensor, Tensor, Tensor]]:
    data = problem(n, d, c)
    return fit_given(*data, VARIANCE, SD), data


SHAPES = [(12, 30, 2), (40, 6, 2), (12, 30, 3), (40, 6, 4)]
"""n < d is solved over the images, n > d over the features."""


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_the_mode_is_that_of_a_plain_optimizer(n: int, d: int, c: int) -> None:
    found, data = given(n, d, c)
    mode, _ = naive(*data)
    assert np.allclose(found.weights.numpy(), mode @ to_logits(c, found.mode).numpy(), atol=2e-4)


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_variances_and_evidence_follow_from_the_hessian(n: int, d: int, c: int) -> None:
    found, (features, targets, counts) = given(n, d, c)
    mode, hessians = naive(features, targets, counts)
    x = torch.randn(7, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = torch.cat([x, torch.ones(7, 1, dtype=torch.float64)], dim=1)
    prior, factors = found.spread()
    for hessian, factor in zip(hessians, factors, strict=True):
        expected = TEMPER * np.einsum("id,de,ie->i", z, np.linalg.inv(hessian), z)
        assert np.allclose(latent_variance(z, prior, factor), expected, rtol=1e-3)
    precision = np.append(np.full(d, d / VARIANCE), 1 / SD**2)
    log_determinants = sum(np.linalg.slogdet(h)[1] - np.log(precision).sum() for h in hessians)
    penalty = (precision[:, None] * mode**2).sum()
    evidence = -found.loss * float(counts.sum()) - 0.5 * penalty - 0.5 * (c - 1) / len(hessians) * log_determinants
    assert found.evidence == pytest.approx(evidence, abs=1e-3)


@pytest.mark.parametrize(("n", "d", "c"), SHAPES)
def test_draws_have_the_mean_and_the_tempered_covariance(n: int, d: int, c: int) -> None:
    found, data = given(n, d, c)
    _, hessians = naive(*data)
    draws = found.draw(20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.mean(0), found.weights, atol=1e-9), "antithetic pairs have the mode as their mean"
    logits = to_logits(c, found.mode).numpy()
    for column in range(c):
        covariance = np.cov(draws[:, :, column].numpy().T)
        expected = TEMPER * sum(logits[i, column] ** 2 * np.linalg.inv(h) for i, h in enumerate(hessians))
        assert np.allclose(covariance, expected, atol=0.05 * np.diag(expected).max())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_any_number_of_draws(k: int) -> None:
    found, _ = given(12, 30, 2)
    draws = found.draw(k, torch.Generator().manual_seed(0))
    assert draws.shape == (k, 31, 2)
    assert (k == 1) == bool(torch.allclose(draws[0], found.weights))


@pytest.mark.parametrize(("n", "d", "c"), [(30, 4, 2), (30, 60, 2), (40, 5, 3)])
def test_leave_one_out_is_close_to_fits_without_each_image(n: int, d: int, c: int) -> None:
    found, (features, targets, counts) = given(n, d, c)
    means, _ = found.leave_one_out(targets, counts)
    logits = to_logits(c, means)
    apart, moved = [], []
    for i in range(n):
        rest = torch.arange(n) != i
        without = fit_given(features[rest], targets[rest], counts[rest], VARIANCE, SD)
        true = features[i] @ without.weights[:-1] + without.weights[-1]
        whole = features[i] @ found.weights[:-1] + found.weights[-1]
        centred = lambda v: (v - v.mean()).numpy()  # noqa: E731
        apart.append(np.abs(centred(means[i] @ logits) - centred(true)).max())
        moved.append(np.abs(centred(whole) - centred(true)).max())
    assert np.mean(apart) < (0.25 if c == 2 else 0.5) * np.mean(moved), "curvature between classes is left out"


def test_the_pair_with_the_largest_evidence_is_chosen() -> None:
    data = problem(40, 60, 3)
    found = bayes_linear.fit(*data)
    scores = {
        (variance, sd): fit_given(*data, variance, sd).evidence - 0.5 * ((math.log10(variance) - 1.2) / 0.6) ** 2
        for variance in (4.0, 16.0, 64.0)
        for sd in (0.05, 0.5, 2.0, 6.0)
    }
    assert (found.variance, found.intercept_sd) == max(scores, key=scores.__getitem__)


def test_shares_of_few_labels_are_not_believed_but_a_rare_class_is() -> None:
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(20, 100, generator=rng, dtype=torch.float64)
    even = torch.arange(20) % 6
    features[torch.arange(20), even] += 12  # six equal classes, easy to tell apart
    assert bayes_linear.fit(features, torch.eye(6)[even].double(), torch.ones(20)).intercept_sd < 1
    many = torch.randn(200, 100, generator=rng, dtype=torch.float64)
    rare = (torch.arange(200) < 5).long()
    assert bayes_linear.fit(many, torch.eye(2)[rare].double(), torch.ones(200)).intercept_sd > 1


def test_labels_of_one_class_and_copies_of_an_image_are_fitted() -> None:
    features = torch.ones(5, 8, dtype=torch.float64)
    found = bayes_linear.fit(features, torch.eye(2)[torch.zeros(5, dtype=torch.int64)].double(), torch.ones(5))
    logits = features @ found.weights[:-1] + found.weights[-1]
    assert bool((logits[:, 0] > logits[:, 1]).all())
    assert bool(torch.isfinite(found.weights).all())


def test_more_labels_than_the_evidence_reads_are_all_fitted() -> None:
    features, targets, counts = problem(600, 5, 2)
    found = bayes_linear.fit(features, targets, counts)
    assert len(found.basis) == 600
    again = fit_given(features, targets, counts, found.variance, found.intercept_sd)
    assert torch.allclose(found.weights, found.confidence * again.weights)
