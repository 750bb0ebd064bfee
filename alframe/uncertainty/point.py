"""One network, one prediction: no spread between draws."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior, Task, Uncertainty


@dataclass(frozen=True)
class Point(Uncertainty):
    """A point estimate: k = 1, so every score of disagreement is exactly 0."""

    @property
    def n_draws(self) -> int:
        return 1

    def fit(self, task: Task, generator: torch.Generator) -> "PointPosterior":
        return PointPosterior(task.train())

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> "PointPosterior":
        return PointPosterior(networks[0])


class PointPosterior(Posterior):
    """The network itself, in eval mode."""

    def __init__(self, network: nn.Module) -> None:
        self.networks = [network.eval()]

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        features = self.networks[0].embed(x)  # type: ignore[operator]
        point_log_probs = self.head(features.clone()).float().log_softmax(dim=-1)
        return Prediction(point_log_probs[:, None], features.float(), point_log_probs)
