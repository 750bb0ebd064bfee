"""What every uncertainty leaf keeps to, fitted by the learner to a few images; a new leaf is tested with no edit here."""

from importlib import import_module

import numpy as np
import pytest
import torch
import yaml
from tests_support import leaves

from alframe.dataset.augment import Augmentation
from alframe.images import Data, ImageSet
from alframe.learner import POOL, Learner, Resources, Sets
from alframe.model.bayesian_mnist_cnn import BayesianMNISTCNN
from alframe.model.frozen import FeatureHead
from alframe.model.small_cnn import SmallCNN
from alframe.types import Examples, Prediction
from alframe.uncertainty.tempered import restore

LEAVES = leaves("uncertainty")
N_CLASSES = 4
CLASSES = tuple("abcd")
ROWS = torch.arange(40, 45)


def build(leaf, **options):
    options = yaml.safe_load(leaf.read_text()) | options
    module, name = options.pop("_target_").rsplit(".", 1)
    return getattr(import_module(module), name)(**options)


def small_cnn(shape, n_classes):
    return SmallCNN(shape, n_classes, width=8)


def image_set(n: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    return ImageSet(
        rng.integers(0, 256, (n, 1, 28, 28)).astype(np.uint8), rng.integers(0, N_CLASSES, n).astype(np.int64), CLASSES
    )


def feature_set(n: int, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    return ImageSet(
        rng.normal(size=(n, 12)).astype(np.float32), rng.integers(0, N_CLASSES, n).astype(np.int64), CLASSES
    )


def learner_for(uncertainty, network, make_trainer, labelled: int = 30, seed: int = 0) -> Learner:
    sets = feature_set if network is FeatureHead else image_set
    data = Data("noise", sets(60, 0), sets(10, 1), Augmentation(crop=2) if sets is image_set else None)
    augmented = {}
    if sets is feature_set:
        augmented = {name: [sets(60, 2 + j) for j in range(uncertainty.n_augmented)] for name in ("pool", "test")}
    learner = Learner(
        Sets(data, augmented=augmented),
        network,
        make_trainer(min_steps=4, epochs=0),
        uncertainty,
        seed=seed,
        resources=Resources(batch_size=5),
    )
    labels = torch.from_numpy(data.pool.labels)
    learner.fit(
        Examples(torch.arange(labelled), labels[:labelled]), Examples(torch.arange(50, 60), labels[50:60]), round=0
    )
    return learner


def predict(learner: Learner, rows: torch.Tensor = ROWS) -> Prediction:
    parts = list(learner.predictions(POOL, rows))
    return Prediction(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def test_there_are_leaves():
    assert {leaf.stem for leaf in LEAVES} >= {"point", "mc_dropout", "ensemble", "laplace", "snapshot", "tta"}


@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize("network", [small_cnn, BayesianMNISTCNN, FeatureHead])
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_predictions_keep_the_contract(leaf, network, temperature, make_trainer):
    uncertainty = build(leaf, temperature=temperature)
    state = torch.get_rng_state()
    learner = learner_for(uncertainty, network, make_trainer)
    prediction = predict(learner)

    assert prediction.log_probs.shape == (5, uncertainty.n_draws, N_CLASSES)
    assert prediction.point_log_probs.shape == (5, N_CLASSES)
    for log_probs in (prediction.log_probs, prediction.point_log_probs):
        assert log_probs.dtype == torch.float32
        torch.testing.assert_close(log_probs.logsumexp(dim=-1), torch.zeros(log_probs.shape[:-1]), rtol=0, atol=1e-5)
    assert not any(t.requires_grad for t in (prediction.log_probs, prediction.features, prediction.point_log_probs))
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for network in learner.fitted.networks for module in network.modules())

    alone = predict(learner, ROWS[3:4])  # draws are the same functions whatever else is in the batch
    torch.testing.assert_close(alone.log_probs, prediction.log_probs[3:4], rtol=1e-5, atol=1e-5)
    variance = prediction.log_probs.exp().var(dim=1, correction=0)
    assert bool((variance > 0).all()) == (uncertainty.n_draws > 1)
    assert ("posterior/temperature" in learner.fitted.numbers) == temperature


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_the_same_streams_give_the_same_posterior_and_others_another(leaf, make_trainer):
    first, again, other = (predict(learner_for(build(leaf), small_cnn, make_trainer, seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.log_probs, other.log_probs)


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_it_works_without_a_label(leaf, make_trainer):
    prediction = predict(learner_for(build(leaf), small_cnn, make_trainer, labelled=0))
    assert prediction.log_probs.isfinite().all()


@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_features_point_prediction_and_head_come_from_the_first_network(leaf, temperature, make_trainer):
    learner = learner_for(build(leaf, temperature=temperature), small_cnn, make_trainer)
    prediction, posterior = predict(learner), learner.fitted
    torch.testing.assert_close(torch.cat(list(learner.features(POOL, ROWS))), prediction.features)
    network = posterior.networks[0]
    x = learner.prepare(learner.pixels[POOL].take(ROWS))
    with torch.no_grad():
        torch.testing.assert_close(prediction.features, network.embed(x))
        divisor = posterior.numbers.get("posterior/temperature", 1.0)
        torch.testing.assert_close(prediction.point_log_probs, (network(x) / divisor).log_softmax(dim=-1))
        torch.testing.assert_close(posterior.head(prediction.features).log_softmax(dim=-1), prediction.point_log_probs)

    features = prediction.features.clone().requires_grad_()
    posterior.head(features).logsumexp(dim=-1).sum().backward()
    assert features.grad is not None
    assert (features.grad.abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_posterior_comes_back_from_its_networks_and_its_state(leaf, temperature, make_trainer):
    uncertainty = build(leaf, temperature=temperature)
    learner = learner_for(uncertainty, small_cnn, make_trainer)
    before, numbers = predict(learner), learner.fitted.numbers
    learner.posterior = restore(uncertainty, learner.fitted.networks, learner.fitted.state)
    after = predict(learner)
    for name in vars(before):
        assert torch.equal(getattr(after, name), getattr(before, name))
    assert learner.fitted.numbers == numbers


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_lists_every_option_with_its_default(leaf):
    options = yaml.safe_load(leaf.read_text())
    options.pop("_target_")
    uncertainty = build(leaf)
    assert uncertainty == type(uncertainty)()
    assert set(options) == set(vars(uncertainty))
    assert leaf.read_text().startswith("# ")
