"""What every trainer leaf keeps to."""

import inspect
import math

import pytest
import yaml
from hydra.utils import get_class
from tests_support import leaves

from alframe.config.overrides import load
from alframe.trainer.trainer import Trainer

LEAVES = leaves("trainer")
BY_STEPS = [leaf for leaf in LEAVES if "alframe.trainer.trainer.Trainer" in leaf.read_text()]


def trainer(leaf) -> Trainer:
    return load([f"trainer={leaf.stem}"]).parts["trainer"]


def test_there_are_leaves():
    assert {leaf.stem for leaf in LEAVES} >= {"sgd", "adamw", "fast", "bayes_linear"}
    assert {leaf.stem for leaf in BY_STEPS} >= {"sgd", "adamw", "fast"}


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: leaf.stem)
def test_a_leaf_lists_every_option(leaf):
    options = yaml.safe_load(leaf.read_text())
    given = set(options) - {"_target_", "defaults"}
    assert given == set(inspect.signature(get_class(options["_target_"])).parameters) - {"optimizer"}
    assert leaf.read_text().startswith("# ")


@pytest.mark.parametrize("leaf", BY_STEPS, ids=lambda leaf: leaf.stem)
def test_a_hundred_labels_get_enough_steps_and_many_get_epochs(leaf):
    chosen = trainer(leaf)
    assert 100 <= chosen.n_steps(100) <= 1000
    assert chosen.n_steps(50_000) == chosen.epochs * math.ceil(50_000 / chosen.batch_size)


@pytest.mark.parametrize("leaf", BY_STEPS, ids=lambda leaf: leaf.stem)
def test_the_learning_rate_rises_to_its_peak_and_ends_near_zero(leaf):
    chosen = trainer(leaf)
    for steps in (chosen.n_steps(100), chosen.n_steps(50_000)):
        factors = [chosen._lr_factor(step, steps) for step in range(steps)]
        assert factors[0] < 0.2
        assert max(factors) == pytest.approx(1, abs=0.02)
        assert 0 < factors[-1] < 0.02
