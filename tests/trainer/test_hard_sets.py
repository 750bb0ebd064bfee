"""Training sets as people's first answers leave them: one image, one class, a class that only soft labels have."""

import numpy as np
import pytest
import torch
from torch import Tensor

from alframe.model.fast_resnet import FastResNet
from alframe.model.small_cnn import SmallCNN
from alframe.types import Examples
from alframe.uncertainty.ensemble import Ensemble
from alframe.uncertainty.laplace import Laplace
from alframe.uncertainty.mc_dropout import MCDropout
from alframe.uncertainty.snapshot import Snapshot

NOBODY = Examples(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))


def hard(rows: list[int], labels: list[int], soft: list[list[float]] | None = None) -> Examples:
    return Examples(torch.tensor(rows), torch.tensor(labels), None if soft is None else torch.tensor(soft))


SETS = {
    "one image": hard([3], [0]),
    "one class": hard([0, 2, 4], [1, 1, 1]),
    "one more than a batch": hard(list(range(17)), [n % 2 for n in range(17)]),
    "one soft label": hard([0], [-1], [[0.7, 0.3]]),
    "a class in soft labels only": hard([0, 2, 4], [0, 0, -1], [[1.0, 0.0], [1.0, 0.0], [0.3, 0.7]]),
}
LEARNERS = {
    "small_cnn": {"model": SmallCNN, "uncertainty": MCDropout(draws=2)},
    "fast_resnet": {"model": lambda shape, n: FastResNet(shape, n, width=8)},
    "ensemble": {"model": SmallCNN, "uncertainty": Ensemble(members=2)},
    "laplace": {"model": SmallCNN, "uncertainty": Laplace(draws=2)},
    "snapshot": {"model": SmallCNN, "uncertainty": Snapshot(cycles=2)},
}


@pytest.mark.parametrize("labelled", SETS.values(), ids=SETS.keys())
@pytest.mark.parametrize("parts", LEARNERS.values(), ids=LEARNERS.keys())
def test_it_is_fitted_and_predicts(make_experiment, make_trainer, make_images, parts, labelled):
    data = make_experiment().data
    pool, test = (make_images(24, seed, side=32) for seed in (0, 1))
    trainer = make_trainer(epochs=1, min_steps=4)
    learner = make_experiment(data=type(data)("tiny", pool, test), trainer=trainer, **parts).learner(0)
    learner.fit(labelled, NOBODY, 0)
    log_probs = learner.mean_log_probs("pool", torch.arange(24))
    assert log_probs.shape == (24, 2)
    assert log_probs.isfinite().all()


@pytest.mark.parametrize(
    "options", [{"class_weighting": "balanced"}, {"balanced_batches": True}, {"prior_bias": True}], ids=str
)
def test_options_for_rare_classes_hold_with_one_class(make_experiment, make_trainer, options):
    learner = make_experiment(trainer=make_trainer(epochs=1, min_steps=4, **options)).learner(0)
    for labelled in SETS.values():
        learner.fit(labelled, NOBODY, 0)
        assert learner.mean_log_probs("pool", torch.arange(8)).isfinite().all()


@pytest.mark.parametrize(("name", "size"), [("one image", 2), ("one class", 3)])
def test_one_image_is_seen_twice_in_every_batch(make_experiment, make_trainer, monkeypatch, name, size):
    """What a network with batch-norm needs; more images make batches of their own number."""
    seen: list[Tensor] = []
    learner = make_experiment(trainer=make_trainer(epochs=1, min_steps=2)).learner(0)
    loss = type(learner.trainer)._loss

    def seen_by_loss(self, logits, y, weight):
        seen.append(y)
        return loss(self, logits, y, weight)

    monkeypatch.setattr(type(learner.trainer), "_loss", seen_by_loss)
    learner.fit(SETS[name], NOBODY, 0)
    assert [len(y) for y in seen] == [size, size]
    assert np.unique(torch.cat(seen)).tolist() == SETS[name].labels.unique().tolist()
