"""A posterior over predictions: how it is fitted, and what it says of a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from alframe.types import Prediction


@runtime_checkable
class TrainNetwork(Protocol):
    """Given by the loop: initialises and trains one network, `member` choosing its random streams; returns it in eval mode."""

    def __call__(self, member: int) -> nn.Module: ...


class Posterior(ABC):
    """Fitted networks, ready to predict. Consistent: draw j is the same function for every image it is asked about."""

    networks: list[nn.Module]
    """The fitted networks, member 0 first (checkpoints, warm start)."""

    @abstractmethod
    def predict(self, x: Tensor) -> Prediction:
        """Normalised float images [b, ...] on the networks' device to a `Prediction` (float32, no gradient)."""

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Features [b, d] to logits [b, c] by the deterministic network (member 0, dropout off); differentiable in the features."""
        return self.networks[0].head  # type: ignore[return-value]


class Uncertainty(ABC):
    """How predictions get their spread. `n_draws` is known before any data is read."""

    @property
    @abstractmethod
    def n_draws(self) -> int:
        """k of `Prediction.log_probs`."""

    @abstractmethod
    def fit(self, train: TrainNetwork, generator: torch.Generator) -> Posterior:
        """Train the networks it needs and return the posterior; `generator` fixes its own draws (masks)."""
