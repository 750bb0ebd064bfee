"""Every strategy with every posterior: whatever `configs/` holds, fitted to a few images and asked through the pool pass."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from conftest import TinyNetwork, tiny_data, tiny_trainer
from hydra.utils import instantiate
from tests_support import composed, leaves

from alframe.budget import Budget
from alframe.dataset.augment import Augmentation
from alframe.errors import ConfigError
from alframe.experiment import check_parts
from alframe.learner import Learner, Sets
from alframe.model.small_cnn import SmallCNN
from alframe.query import TargetSet, query
from alframe.strategy.base import Schedule
from alframe.types import Examples, Labelled
from alframe.uncertainty.base import Uncertainty

STRATEGIES = [leaf.stem for leaf in leaves("strategy")]
POSTERIORS = [leaf.stem for leaf in leaves("uncertainty")]
N_LABELED, N_VALIDATION, SIZE = 24, 16, 6
BUDGET = Budget(initial=40, validation=0.4)

pytestmark = pytest.mark.filterwarnings("ignore:The batch saturates")  # batch_bald, with so few draws


def schedule_of(name: str) -> Schedule:
    return instantiate(composed(f"strategy={name}").strategy)


def uncertainty_of(name: str) -> Uncertainty:
    return instantiate(composed(f"uncertainty={name}", "uncertainty.temperature=true").uncertainty)


@cache
def fitted(posterior: str) -> Learner:
    """Three classes, a network of a few weights, a temperature on top."""
    data = replace(tiny_data(120, 30, n_classes=3), augment=Augmentation(crop=1))
    learner = Learner(Sets(data), TinyNetwork, tiny_trainer(), uncertainty_of(posterior))
    learner.fit(examples(0, N_LABELED, data), examples(N_LABELED, N_LABELED + N_VALIDATION, data), round=0)
    return learner


def examples(start: int, stop: int, data) -> Examples:
    return Examples(torch.arange(start, stop), torch.from_numpy(data.pool.labels)[start:stop])


@pytest.mark.parametrize("posterior", POSTERIORS)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_strategy_asks_any_posterior(strategy: str, posterior: str) -> None:
    schedule, uncertainty = schedule_of(strategy), uncertainty_of(posterior)
    try:
        check_parts(schedule, uncertainty, tiny_trainer(), BUDGET, SmallCNN)
    except ConfigError:
        assert uncertainty.n_draws < schedule.min_draws
        return
    data = tiny_data(120, 30, n_classes=3)
    rows = torch.arange(N_LABELED + N_VALIDATION, 120)
    picked = [
        query(
            schedule.at(0, 40, (20, 20)),
            fitted(posterior),
            rows,
            SIZE,
            torch.Generator().manual_seed(0),
            Labelled(examples(0, N_LABELED, data), examples(N_LABELED, N_LABELED + N_VALIDATION, data)),
            TargetSet(size=20),
        )
        for _ in range(2)
    ]
    assert set(picked[0].indices) <= set(rows.tolist())
    assert picked[0].indices == picked[1].indices
