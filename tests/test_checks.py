"""What a run is told before its first round, and what is written down of its data."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alframe.budget import Budget
from alframe.checks import inspect_data
from alframe.images import Data, ImageSet
from alframe.learner import Resources
from alframe.record.record import Record


def test_provenance_says_what_the_data_are(make_experiment, tmp_path):
    e = make_experiment(resources=Resources(cache=tmp_path))
    known, cautions = inspect_data(e)
    assert cautions == []
    assert known["pool_hash"] == e.data.pool.content_hash
    assert known["test_hash"] == e.data.test.content_hash
    assert (known["n_pool"], known["n_test"]) == (80, 40)
    assert known["near_duplicates"] == {"exact": 0, "near": 0, "looked_at": 40, "examples": []}
    record = Record(tmp_path / "run", {"seed": 0}, tensorboard=False)
    record.at_start(known, torch.device("cpu"))
    record.close()
    assert json.loads((tmp_path / "run/provenance.json").read_text())["near_duplicates"]["looked_at"] == 40


def test_shared_images_are_told_in_one_line(make_experiment, data, tmp_path):
    twice = replace(data.test, pixels=np.concatenate([data.pool.pixels[:3], data.test.pixels[3:]]))
    known, (caution,) = inspect_data(
        make_experiment(data=replace(data, test=twice), resources=Resources(cache=tmp_path))
    )
    assert known["near_duplicates"]["exact"] == 3
    assert caution.startswith("3 test images have an exact copy in the pool, and 0 a near copy; test metrics")


def test_features_are_compared_exactly(make_experiment, tmp_path):
    features = ImageSet(np.eye(40, dtype=np.float32), np.zeros(40, dtype=np.int64), ("a", "b"))
    known, (caution,) = inspect_data(
        make_experiment(
            data=Data("features", features, features.take(np.arange(4))), resources=Resources(cache=tmp_path)
        )
    )
    assert known["near_duplicates"] is None
    assert caution.startswith("4 test samples are also in the pool (identical features)")


@pytest.mark.parametrize(
    ("trainer", "budget", "words"),
    [
        ({"early_stop": 3}, {"validation": 0.2}, "trainer.early_stop starts with only 4 validation images, so accuracy is uncertain by about 25 points"),
        ({"early_stop": 3, "best_checkpoint": True}, {"validation": 0.2}, "trainer.early_stop and trainer.best_checkpoint start with only 4"),
        ({}, {"validation": 0.2, "plateau": 2}, "budget.plateau starts with only 4"),
        ({}, {"validation": 0.2}, None),
        ({"early_stop": 3}, {"validation": 50, "count_validation": False}, None),
    ],
)  # fmt: skip
def test_rules_on_a_handful_of_validation_images(make_experiment, make_trainer, tmp_path, trainer, budget, words):
    budget = Budget(initial=20, query_size=5, rounds=1, **budget)
    _, cautions = inspect_data(
        make_experiment(trainer=make_trainer(**trainer), budget=budget, resources=Resources(cache=tmp_path))
    )
    assert len(cautions) == (words is not None)
    assert not words or words in cautions[0]
