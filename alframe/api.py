"""alframe from Python, without configs: build an `Experiment`, then `run` it in a folder, or `fit` once.

experiment = Experiment(data, SmallCnn, strategy=TopScore(score=margin), budget=Budget(initial=50, rounds=3))
done = run(experiment, "runs/mine")        # resumes an unfinished run
done.rounds, done.ledger                   # the metrics of each round, and every answer
done.fitted.predict(images)                # the posterior of the last round

fit(experiment, labels={0: 1, 7: 0, 9: 1}).predict(images)   # one fit, without a loop
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alframe.console import RoundTable
from alframe.errors import DataError, expect
from alframe.experiment import Experiment
from alframe.images import ImageSet
from alframe.learner import Learner, cpu_threads, fixed_augmentations
from alframe.loop import run as run_loop
from alframe.pixels import Pixels
from alframe.record.read import first_threads
from alframe.record.record import Record
from alframe.restore import as_trained, restore
from alframe.types import Examples, Prediction

NEW = "new"  # the name of images to predict among those of a learner


@dataclass(frozen=True)
class Fitted:
    """Trained networks, ready to predict."""

    experiment: Experiment
    learner: Learner
    numbers: dict[str, float] = field(default_factory=dict)
    """What the fit settled on: the training loss, a temperature and the like."""

    def predict(self, images: np.ndarray) -> Prediction:
        """The posterior on raw images, uint8 [n, c, h, w] like the pool's, or on features [n, d]. Returned on the CPU.

        All draws are kept: n k c numbers.
        """
        e, learner = self.experiment, self.learner
        raw_images = ImageSet(images, np.full(len(images), -1), e.data.pool.classes)
        prepare = partial(learner.model.prepare, raw_images, e.resources.cache, learner.device)
        fixed = fixed_augmentations(e.data.augment, e.uncertainty.n_augmented) if learner.model.on_features else []
        first, *others = (
            Pixels(prepare(transform=one).pixels, learner.device, e.resources.resident_bytes // (1 + len(fixed)))
            for one in (None, *fixed)
        )
        learner.pixels[NEW] = first
        if others:
            learner.augmented[NEW] = others
        parts = list(learner.predictions(NEW, torch.arange(len(images)), posterior=learner.fitted))
        del learner.pixels[NEW]
        learner.augmented.pop(NEW, None)
        return Prediction(
            *(
                torch.cat([getattr(part, name).cpu() for part in parts])
                for name in ("log_probs", "features", "point_log_probs")
            )
        )


@dataclass(frozen=True)
class Run:
    """A run in its folder: one line per round, and every answer in order of arrival."""

    folder: Path
    experiment: Experiment
    rounds: list[dict[str, Any]]
    ledger: list[dict[str, Any]]

    @cached_property
    def fitted(self) -> Fitted:
        """The posterior of the last round, from its checkpoint or retrained."""
        last = self.rounds[-1]["round"]
        experiment, rules = as_trained(self.experiment, self.folder, last)
        return Fitted(experiment, restore(experiment, self.folder, self.ledger, rules, last)[0])


def run(
    experiment: Experiment,
    folder: str | Path,
    *,
    overwrite: bool = False,
    tensorboard: bool = False,
    maps: bool = False,
    table: RoundTable | None = None,
) -> Run:
    """Run an experiment in `folder`, or resume an unfinished run there; a finished run is left alone.

    The config is `Experiment.describe()`. Options that differ from those in the folder raise `RunFolderError`, unless
    `overwrite` starts over. Raises `Waiting` while people have not answered; call it again later. `maps` draws where
    in the queried images the evidence is. `table` prints the rounds.
    """
    options = {"overwrite": overwrite, "tensorboard": tensorboard, "maps": maps, "keep_checkpoint": True}
    record = Record(Path(folder), experiment.describe(), experiment.declared, **options)
    with closing(record), cpu_threads(first_threads(record.folder)):
        if not record.finished:
            run_loop(experiment, record, table)
        return Run(record.folder, experiment, record.rounds, record.ledger.lines)


def fit(
    experiment: Experiment, labels: Mapping[int, int], validation: Mapping[int, int] | None = None, round: int = 0
) -> Fitted:
    """Fit the posterior once. `labels` maps an image's index in the pool to its class; `validation` likewise.

    The random streams are those of `round`.
    """
    experiment.check()
    outside = [index for index in {*labels, *(validation or {})} if not 0 <= index < len(experiment.data.pool)]
    expect(
        not outside,
        f"Expected indices of the pool (0 to {len(experiment.data.pool) - 1}), got {outside[:5]}.",
        DataError,
    )
    learner = experiment.learner(round)
    numbers = learner.fit(_examples(labels), _examples(validation or {}), round)
    return Fitted(experiment, learner, numbers)


def _examples(labels: Mapping[int, int]) -> Examples:
    rows, classes = list(labels), list(labels.values())
    return Examples(torch.tensor(rows, dtype=torch.int64), torch.tensor(classes, dtype=torch.int64))
