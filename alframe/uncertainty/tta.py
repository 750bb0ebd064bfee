"""Test-time augmentation: each draw is the network on the image under one fixed transformation."""

from dataclasses import dataclass

import torch

from alframe.uncertainty.base import ByPasses, Passes, Task, expect_spread


@dataclass(frozen=True)
class TTA(ByPasses):
    """k = `draws` views of each image: unchanged, and under k - 1 fixed transformations of the dataset's augmentation.

    The transformations are the same for every image and every round, so draws are consistent. Inference costs `draws` passes.
    Raises ConfigError if `draws` < 2, and the learner does if the dataset has no augmentation that can be fixed.
    Source: Ayhan & Berens 2018 (test-time data augmentation); Shanmugam et al. 2021, arXiv:2011.11156.
    """

    draws: int = 8

    def __post_init__(self) -> None:
        expect_spread(draws=self.draws)

    @property
    def n_draws(self) -> int:
        return self.draws

    @property
    def n_augmented(self) -> int:  # type: ignore[override]
        return self.draws - 1

    def fit(self, task: Task, generator: torch.Generator) -> Passes:
        return Passes([task.train()], self.n_augmented)
