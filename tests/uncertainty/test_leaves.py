"""What every uncertainty leaf keeps to."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from alframe.model.bayesian_mnist_cnn import BayesianMNISTCNN
from alframe.model.small_cnn import SmallCNN
from alframe.rng import generator, scoped

LEAVES = sorted((Path(__file__).parents[2] / "configs" / "uncertainty").glob("*.yaml"))
SHAPE, N_CLASSES = (1, 28, 28), 4


def build(leaf: Path):
    options = yaml.safe_load(leaf.read_text())
    module, name = options.pop("_target_").rsplit(".", 1)
    return getattr(import_module(module), name)(**options)


def train_small(member: int):
    with scoped(generator(0, member, "init")):
        return SmallCNN(SHAPE, N_CLASSES, width=8)


def train_bayesian(member: int):
    with scoped(generator(0, member, "init")):
        return BayesianMNISTCNN(SHAPE, N_CLASSES).train()


def test_there_are_leaves():
    assert {leaf.stem for leaf in LEAVES} >= {"point", "mc_dropout", "ensemble"}


@pytest.mark.parametrize("train", [train_small, train_bayesian])
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_predictions_keep_the_contract(leaf, train):
    uncertainty = build(leaf)
    state = torch.get_rng_state()
    posterior = uncertainty.fit(train, generator(0, 0, "posterior"))
    x = torch.randn(5, *SHAPE, generator=generator(0, 0, "images"))
    prediction = posterior.predict(x)

    assert prediction.log_probs.shape == (5, uncertainty.n_draws, N_CLASSES)
    assert prediction.point_log_probs.shape == (5, N_CLASSES)
    for log_probs in (prediction.log_probs, prediction.point_log_probs):
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs.logsumexp(dim=-1), torch.zeros(log_probs.shape[:-1]), rtol=0, atol=1e-5)
    assert not any(t.requires_grad for t in (prediction.log_probs, prediction.features, prediction.point_log_probs))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for network in posterior.networks for module in network.modules())

    again = posterior.predict(x.flip(0))
    torch.testing.assert_close(again.log_probs.flip(0), prediction.log_probs, rtol=1e-5, atol=1e-5)
    variance = prediction.log_probs.exp().var(dim=1, correction=0)
    assert bool((variance > 0).all()) == (uncertainty.n_draws > 1)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_features_point_prediction_and_head_come_from_the_first_network(leaf):
    posterior = build(leaf).fit(train_small, generator(0, 0, "posterior"))
    x = torch.randn(5, *SHAPE, generator=generator(0, 0, "images"))
    prediction = posterior.predict(x)
    network = posterior.networks[0]
    with torch.no_grad():
        torch.testing.assert_close(prediction.features, network.embed(x))
        torch.testing.assert_close(prediction.point_log_probs, network(x).log_softmax(dim=-1))
        torch.testing.assert_close(posterior.head(prediction.features).log_softmax(dim=-1), prediction.point_log_probs)

    features = prediction.features.clone().requires_grad_()
    posterior.head(features).logsumexp(dim=-1).sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_lists_every_option_with_its_default(leaf):
    options = yaml.safe_load(leaf.read_text())
    options.pop("_target_")
    uncertainty = build(leaf)
    assert uncertainty == type(uncertainty)()
    assert set(options) == set(vars(uncertainty))
    assert leaf.read_text().startswith("# ")
