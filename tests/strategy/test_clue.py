"""CLUE: the weight, its temperature, and the image nearest to each centre of a weighted k-means."""

import math

import pytest
import torch
from torch import Tensor

from alframe.engine.k_means import k_means
from alframe.errors import ConfigError
from alframe.strategy.clue import Clue
from alframe.types import PoolView, Prediction, Selection


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def select(features: Tensor, entropy: Tensor, size: int, seed: int = 0, **options: object) -> Selection:
    view = PoolView(n=len(features), pool={"features": features, "entropy": entropy}, n_classes=3)
    return Clue(**options).select(view, size, seeded(seed))


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
@pytest.mark.parametrize("c", [2, 100])
def test_the_weight_is_the_entropy_of_the_point_networks_softmax_at_the_temperature(temperature: float, c: int) -> None:
    logits = 3 * torch.randn(30, c, generator=seeded(0))
    draws = torch.randn(30, 4, c, generator=seeded(1)).log_softmax(dim=-1)
    summary = Clue(temperature=temperature).summarize(
        Prediction(draws, torch.randn(30, 5, generator=seeded(2)), logits.log_softmax(dim=-1))
    )
    probs = (logits.double() / temperature).softmax(dim=-1)
    expected = -(probs * probs.log()).sum(dim=-1)
    torch.testing.assert_close(summary["entropy"].double(), expected, atol=1e-5, rtol=1e-4)
    assert summary["entropy"].shape == (30,)


def test_a_one_hot_prediction_weighs_nothing() -> None:
    log_probs = torch.tensor([[0.0, -torch.inf, -torch.inf], [-math.log(3)] * 3])
    for temperature in (0.1, 10.0):
        entropy = Clue(temperature).summarize(Prediction(log_probs[:, None], torch.ones(2, 2), log_probs))["entropy"]
        assert entropy[0] == 0
        assert entropy[1] == pytest.approx(math.log(3), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_pick_is_the_naive_nearest_image_of_each_cluster(size: int) -> None:
    features = torch.randn(400, 6, generator=seeded(0))
    entropy = torch.rand(400, generator=seeded(1))
    clusters = k_means(features, size, seeded(3), weights=entropy)
    expected = []
    for c in range(size):
        mine = (clusters.labels == c).nonzero().squeeze(1)
        distances = (features[mine].double() - clusters.centres[c].double()).norm(dim=1)
        expected.append((-len(mine), int(mine[distances.argmin()]), -float(distances.min())))
    selection = select(features, entropy, size, seed=3)
    assert set(selection.positions.tolist()) == {position for _, position, _ in expected}
    assert dict(zip(selection.positions.tolist(), selection.scores.tolist(), strict=True)) == pytest.approx(
        {position: score for _, position, score in expected}, rel=1e-4, abs=1e-6
    )
    sizes = [int((clusters.labels == clusters.labels[p]).sum()) for p in selection.positions]
    assert sizes == sorted(sizes, reverse=True)


def test_centres_are_weighted_means_so_that_the_pick_leans_to_the_uncertain() -> None:
    features = torch.linspace(0, 1, 101)[:, None]
    uncertain = torch.where(features[:, 0] > 0.8, 1.0, 0.01)
    expected = float((features[:, 0] * uncertain).sum() / uncertain.sum())
    assert float(features[select(features, uncertain, 1).positions]) == pytest.approx(expected, abs=0.006)
    assert float(features[select(features, torch.ones(101), 1).positions]) == pytest.approx(0.5, abs=0.006)
    # An unweighted k-means over the uncertain alone, or over all, would land elsewhere.
    assert abs(expected - 0.5) > 0.2
    assert abs(expected - 0.9) > 0.01


def test_no_uncertainty_anywhere_is_k_means_without_weights() -> None:
    features = torch.randn(200, 4, generator=seeded(0))
    expected = select(features, torch.ones(200), 9).positions.tolist()
    clusters = k_means(features, 9, seeded(0))
    assert select(features, torch.zeros(200), 9).positions.tolist() == clusters.representatives(9).tolist()
    assert len(set(expected)) == 9


def test_duplicates_and_zero_vectors_are_picked_without_repeats() -> None:
    features = torch.cat([torch.zeros(20, 3), torch.randn(10, 3, generator=seeded(0)).repeat_interleave(3, dim=0)])
    entropy = torch.rand(50, generator=seeded(1))
    for size in (1, 11, 30, 50):
        selection = select(features, entropy, size)
        assert len(set(selection.positions.tolist())) == size
        assert selection.scores.isfinite().all()
    first = features[select(features, entropy, 50).positions[:11]]
    assert len(first.unique(dim=0)) == 11


def test_normalized_features_ignore_their_length() -> None:
    features = torch.randn(200, 6, generator=seeded(0))
    log_probs = torch.randn(200, 3, generator=seeded(1)).log_softmax(dim=-1)
    lengths = torch.linspace(0.1, 30, 200)[:, None]

    def choose(features: Tensor, normalize: bool) -> list[int]:
        strategy = Clue(normalize=normalize)
        summary = strategy.summarize(Prediction(log_probs[:, None], features, log_probs))
        return strategy.select(PoolView(n=200, pool=summary, n_classes=3), 8, seeded(0)).positions.tolist()

    assert choose(features * lengths, True) == choose(features, True)
    assert choose(features * lengths, False) != choose(features, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature above 0, got 0.0"),
        ({"max_iterations": 0}, "max_iterations of at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_an_error(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Clue(**options)
