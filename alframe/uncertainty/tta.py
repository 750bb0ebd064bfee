"""Test-time augmentation: each draw is the network on the image under one fixed transformation."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior, Task, Uncertainty, expect_spread


@dataclass(frozen=True)
class TTA(Uncertainty):
    """k = `draws` views of each image: unchanged, and under k - 1 fixed transformations of the dataset's augmentation.

    The transformations are the same for every image and every round, so draws are consistent. One training; inference costs
    `draws` passes. With a frozen trunk, features of the transformed images are kept beside those of the images. Raises
    ConfigError if `draws` < 2, and the learner does if the dataset has no augmentation that can be fixed.
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

    def fit(self, task: Task, generator: torch.Generator) -> "TTAPosterior":
        return TTAPosterior(task.train(), self.n_augmented)

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> "TTAPosterior":
        return TTAPosterior(networks[0], self.n_augmented)


class TTAPosterior(Posterior):
    """One network in eval mode; draw 0 is the image as it is."""

    def __init__(self, network: nn.Module, n_augmented: int) -> None:
        self.networks = [network.eval()]
        self.n_augmented = n_augmented

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        assert augmented is not None, "the learner makes as many as n_augmented says"
        features = self.networks[0].embed(x)  # type: ignore[operator]
        logits = [self.head(features.clone()), *(self.networks[0](augmented(j)) for j in range(self.n_augmented))]
        log_probs = torch.stack(logits, dim=1).float().log_softmax(dim=-1)
        return Prediction(log_probs, features.float(), log_probs[:, 0])
