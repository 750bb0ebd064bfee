"""The probability of a defect against a naive version in float64."""

import math

import pytest
import torch

from alframe.strategy.most_likely import MostLikely, rarest
from alframe.types import PoolView, Prediction

N, K, C = 50, 4, 5
LOG_PROBS = torch.randn(N, K, C, generator=torch.Generator().manual_seed(0)).log_softmax(dim=-1)
PREDICTION = Prediction(LOG_PROBS, torch.zeros(N, 3), LOG_PROBS[:, 0])


def naive(defects: tuple[int, ...]) -> list[float]:
    """Means and sums written out in float64."""
    every = LOG_PROBS.double().tolist()
    return [sum(math.exp(draw[c]) / K for draw in image for c in defects) for image in every]


@pytest.mark.parametrize(
    ("counts", "defects", "classes"),
    [
        ((9, 1, 1, 5, 3), (1, 3), (1, 3)),
        ((9, 1, 1, 5, 3), None, (2,)),  # the last of equals
        ((9, 1, 0, 5, 0), None, (4,)),
        ((), None, (4,)),
        ((0, 1, 1, 1, 1), (), (0,)),  # no class is one: as if nobody had said
        ((0, 1, 1, 1, 1), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4)),
    ],
)
def test_it_is_the_mean_probability_of_the_defects_or_else_of_the_rarest_class(counts, defects, classes):
    view = PoolView(N, MostLikely().summarize(PREDICTION), C, counts=counts, defects=defects)
    found = MostLikely().select(view, 7, torch.Generator().manual_seed(0))
    assert found.pool_scores.tolist() == pytest.approx(naive(classes), abs=1e-6)
    assert torch.equal(found.scores, found.pool_scores.topk(7).values)
    assert found.score_name == "most_likely"


def test_the_rarest_class_is_the_last_of_equals():
    assert rarest((3, 1, 1), 3) == 2
    assert rarest((1, 3, 3), 3) == 0
    assert rarest((), 4) == 3
