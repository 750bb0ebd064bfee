"""The networks at the ends of the cycles of one training: an ensemble for the cost of one network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from alframe.uncertainty.base import Task, Uncertainty, expect_spread
from alframe.uncertainty.ensemble import EnsemblePosterior


@dataclass(frozen=True)
class Snapshot(Uncertainty):
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

    def fit(self, task: Task, generator: torch.Generator) -> EnsemblePosterior:
        return EnsemblePosterior(task.train_cycles(self.cycles)[::-1])

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> EnsemblePosterior:
        return EnsemblePosterior(networks)
