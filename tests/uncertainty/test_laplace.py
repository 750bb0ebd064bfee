import pytest
import torch
from tests_support import LinearNetwork, NetworkTask, linear_network
from torch import Tensor, nn

from alframe.errors import ConfigError
from alframe.rng import generator
from alframe.uncertainty.laplace import PRECISIONS, Laplace, LaplacePosterior

D, C, N = 3, 4, 50


X = torch.randn(N, D, generator=generator(0, 0, "x")) / 6
LABELS = torch.randint(C, (N,), generator=generator(0, 0, "labels"))
BATCHES = [(X[:20], LABELS[:20]), (X[20:], LABELS[20:])]


def fit(training=BATCHES, model=None, **options) -> LaplacePosterior:
    task = NetworkTask(lambda member: model or linear_network(), training)
    return Laplace(**options).fit(task, generator(0, 0, "weights"))


def naive_curvature(model: LinearNetwork) -> Tensor:
    """A (x) B of the docstring, written out as one matrix over the flattened weights [(d + 1) c]."""
    x = 6 * X.double()
    h = [torch.cat([row, torch.ones(1)]) if model.layer.bias is not None else row for row in x]
    gram = sum(torch.outer(row, row) for row in h)
    weight, bias = model.layer.weight.double(), model.layer.bias
    noise = torch.zeros(C, C, dtype=torch.float64)
    for row in x:
        p = (weight @ row + (0 if bias is None else bias.double())).softmax(dim=0)
        noise += (torch.diag(p) - torch.outer(p, p)) / N
    return torch.kron(gram, noise).detach()


@pytest.mark.parametrize("bias", [True, False])
def test_drawn_weights_have_the_mean_and_covariance_of_the_approximation(bias):
    model = linear_network(bias=bias)
    posterior = fit(model=model, draws=60_000, prior_precision=0.7)
    flat = posterior.weights.double().flatten(1)
    curvature = naive_curvature(model)
    covariance = (curvature + 0.7 * torch.eye(len(curvature))).inverse()
    torch.testing.assert_close(flat.mean(dim=0), posterior._trained.flatten(), rtol=0, atol=0.02)
    torch.testing.assert_close(flat.T.cov(), covariance, rtol=0, atol=0.02 * float(covariance.max()))


def test_the_prior_precision_has_the_largest_marginal_likelihood():
    model, curvature = linear_network(), naive_curvature(linear_network())
    weights = torch.cat([model.layer.weight.double().T, model.layer.bias.double()[None]]).detach()
    log_likelihood = -nn.functional.cross_entropy(model(X).double(), LABELS, reduction="sum").item()

    def evidence(tau: float) -> float:
        posterior = curvature + tau * torch.eye(len(curvature), dtype=torch.float64)
        prior = tau * torch.eye(len(curvature), dtype=torch.float64)
        return log_likelihood - tau * float(weights.square().sum()) / 2 - float(posterior.logdet() - prior.logdet()) / 2

    best = max(PRECISIONS.tolist(), key=evidence)
    posterior = fit()
    assert posterior.prior_precision == pytest.approx(best)
    assert posterior.numbers == {"posterior/prior_precision": posterior.prior_precision}


def test_soft_targets_give_the_expected_likelihood_and_a_single_1_that_of_the_label():
    targets = torch.rand(N, C, generator=generator(0, 0, "targets"))
    targets /= targets.sum(dim=1, keepdim=True)
    model = linear_network()
    posterior = fit(model=model)
    log_probs = model(X).detach().double().log_softmax(dim=1)
    for truth in (targets, nn.functional.one_hot(LABELS, C).float()):
        gram, noise, log_likelihood = posterior._curvature([(X[:20], truth[:20]), (X[20:], truth[20:])])
        assert log_likelihood == pytest.approx(float((truth.double() * log_probs).sum()), rel=1e-6)
        for found, expected in zip((gram, noise), posterior._curvature(BATCHES)[:2], strict=True):
            assert torch.equal(found, expected)
    by_labels = posterior._curvature(BATCHES)[2]
    assert log_likelihood == pytest.approx(by_labels)


def test_each_draw_is_the_network_with_other_weights_in_its_last_layer():
    posterior = fit(draws=3)
    prediction = posterior.predict(X[:5])
    for draw, weights in enumerate(posterior.weights):
        expected = (6 * X[:5] @ weights[:D] + weights[D]).log_softmax(dim=-1)
        torch.testing.assert_close(prediction.log_probs[:, draw], expected)
    torch.testing.assert_close(prediction.features, 2 * X[:5])
    torch.testing.assert_close(prediction.point_log_probs, linear_network()(X[:5]).log_softmax(dim=-1))


def test_more_labels_leave_less_doubt():
    few, many = (
        fit(BATCHES * times, draws=200, prior_precision=1.0).predict(X).log_probs.exp().std(dim=1).mean()
        for times in (1, 100)
    )
    assert many < 0.5 * few


def test_the_order_and_size_of_the_batches_do_not_change_the_draws():
    few = [(X[:3], LABELS[:3])]  # fewer images than features: most directions have the same curvature
    apart = [(X[i : i + 1], LABELS[i : i + 1]) for i in (2, 0, 1)]
    torch.testing.assert_close(fit(few).weights, fit(apart).weights, rtol=1e-4, atol=1e-5)


def test_without_labels_the_prior_is_as_wide_as_the_initial_weights():
    posterior = fit([])
    assert posterior.prior_precision == pytest.approx(1 / float(posterior._trained.square().mean()))


def test_without_labels_the_prior_is_drawn():
    posterior = fit([], draws=20_000, prior_precision=4.0)
    drawn = posterior.weights - posterior.weights.mean(dim=0)
    torch.testing.assert_close(drawn.std(), torch.tensor(0.5), rtol=0.05, atol=0)


def test_a_network_whose_logits_are_no_linear_layers_output_is_an_error():
    class Scaled(LinearNetwork):
        def head(self, h: Tensor) -> Tensor:
            return super().head(h).mul_(2)  # in place

    class AnotherLast(LinearNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.after = nn.Linear(C, 7)  # defined last, and no part of the way to the logits

    for model in (Scaled(), AnotherLast()):
        with pytest.raises(ConfigError, match="the output of its last linear layer.*got something else"):
            fit(model=model)

    class None_(LinearNetwork):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()

    with pytest.raises(ConfigError, match="come from a linear layer for uncertainty=laplace, got None_ with none"):
        fit(model=None_())


@pytest.mark.parametrize("options", [{"draws": 1}, {"prior_precision": 0.0}])
def test_values_out_of_range_are_errors(options):
    with pytest.raises(ConfigError, match="Expected uncertainty"):
        Laplace(**options)
