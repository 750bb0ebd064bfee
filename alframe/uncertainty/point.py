"""One network, one prediction: no spread between draws."""

from dataclasses import dataclass

import torch

from alframe.uncertainty.base import ByPasses, Passes, Task


@dataclass(frozen=True)
class Point(ByPasses):
    """A point estimate: k = 1, so every score of disagreement is exactly 0."""

    @property
    def n_draws(self) -> int:
        return 1

    def fit(self, task: Task, generator: torch.Generator) -> Passes:
        return Passes([task.train()])
