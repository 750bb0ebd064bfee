import pytest
import torch
from torch import Tensor

from alframe.rng import generator
from alframe.types import Prediction
from alframe.uncertainty.base import Posterior
from alframe.uncertainty.tempered import COOLEST, HOTTEST, Tempered

N, K, C = 400, 3, 5
SCORES = torch.randn(N, K, C, generator=generator(0, 0, "scores")) + 2 * torch.randn(
    N, 1, C, generator=generator(0, 0, "shared")
)
LABELS = SCORES.mean(dim=1).softmax(dim=-1).multinomial(1, generator=generator(0, 0, "labels"))[:, 0]


class Told(Posterior):
    """Predicts what it is told: x are the logits of the draws."""

    def __init__(self) -> None:
        self.networks = []

    def predict(self, x: Tensor, view=None) -> Prediction:
        log_probs = x.log_softmax(dim=-1)
        return Prediction(log_probs, x.mean(dim=1), log_probs[:, 0])

    @property
    def head(self):
        return lambda features: 3 * features


def batches(scores: Tensor, labels: Tensor):
    return [(x, None, y) for x, y in zip(scores.split(150), labels.split(150), strict=True)]


def naive_loss(scores: Tensor, temperature: float) -> float:
    total = torch.log(torch.tensor(temperature)).item() ** 2 / 2
    for image, label in zip(scores.double(), LABELS, strict=True):
        total -= torch.stack([(draw / temperature).softmax(dim=0)[label] for draw in image]).mean().log().item()
    return total


@pytest.mark.parametrize("factor", [0.25, 1.0, 6.0])
def test_the_temperature_has_the_least_loss(factor):
    fitted = Tempered.fit(Told(), batches(factor * SCORES, LABELS)).temperature
    best = naive_loss(factor * SCORES, fitted)
    assert best <= min(naive_loss(factor * SCORES, fitted * step) for step in (0.9, 0.99, 1.01, 1.1)) + 1e-6


def test_everything_is_divided_by_it():
    posterior = Tempered(Told(), 2.5)
    prediction = posterior.predict(SCORES)
    torch.testing.assert_close(prediction.log_probs, (SCORES / 2.5).log_softmax(dim=-1))
    torch.testing.assert_close(prediction.point_log_probs, (SCORES[:, 0] / 2.5).log_softmax(dim=-1))
    torch.testing.assert_close(prediction.features, SCORES.mean(dim=1))
    features = torch.ones(2, C)
    torch.testing.assert_close(posterior.head(features), 3 * features / 2.5)
    assert posterior.numbers == {"posterior/temperature": 2.5}


def test_a_few_images_that_are_all_right_do_not_make_it_certain():
    certain = torch.zeros(3, 1, 2)
    certain[:, :, 0] = 1.0
    temperature = Tempered.fit(Told(), batches(certain, torch.zeros(3, dtype=torch.int64))).temperature
    assert 0.3 < temperature < 1.0


def test_it_stays_within_bounds():
    wrong = torch.zeros(300, 1, 2)
    wrong[:, :, 0] = 1000.0
    assert Tempered.fit(Told(), batches(wrong, torch.ones(300, dtype=torch.int64))).temperature <= HOTTEST
    assert Tempered.fit(Told(), batches(wrong / 1e5, torch.zeros(300, dtype=torch.int64))).temperature >= COOLEST


def test_without_validation_images_nothing_changes():
    assert Tempered.fit(Told(), []).temperature == 1.0
