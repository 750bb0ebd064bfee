"""The networks at the ends of the cycles of one training: an ensemble for the cost of one network."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from alframe.uncertainty.base import ByPasses, Passes, Task, expect_spread


@dataclass(frozen=True)
class Snapshot(ByPasses):
    """k = `cycles` copies of one network, each taken when the schedule of the learning rate has come to its end once more.

    The steps of one training are shared by the cycles; inference costs `cycles` passes. Features and point prediction are
    those of the last copy. Not together with early stopping or best checkpoints. Raises ConfigError if `cycles` < 2.
    Source: Huang et al. 2017, arXiv:1704.00109. Differs: all cycles are averaged, and the schedule is the trainer's.
    """

    restarts: ClassVar[bool] = True

    cycles: int = 5

    def __post_init__(self) -> None:
        expect_spread(cycles=self.cycles)

    @property
    def n_draws(self) -> int:
        return self.cycles

    def fit(self, task: Task, generator: torch.Generator) -> Passes:
        return Passes(task.train_cycles(self.cycles)[::-1])
