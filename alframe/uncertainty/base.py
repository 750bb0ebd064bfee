"""A posterior over predictions: fitting and prediction."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from alframe.engine.bayes_linear import LinearPosterior
from alframe.errors import ConfigError, expect
from alframe.part import Part
from alframe.types import Prediction

Method = Literal["auto", "together", "one_by_one"]
Augmented = Callable[[int], Tensor]
"""`augmented(j)`: the same batch under the j-th fixed transformation of the dataset's augmentation."""


class Task(Protocol):
    """Provided by the learner: the labelled images, and training on them. Networks are returned in eval mode."""

    def train(self) -> nn.Module:
        """One network, trained from its initialisation (or from the last round's weights, as the trainer says)."""

    def train_members(self, members: int, method: Method) -> list[nn.Module]:
        """Networks from different initialisations: `one_by_one`, `together` in the same steps, or as the rule `auto` says."""

    def train_cycles(self, cycles: int) -> list[nn.Module]:
        """One network whose learning rate starts again `cycles` times: a copy from the end of each cycle, in order."""

    def training(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the labelled images, normalised and not augmented, with their labels (int64 [b]) or soft labels (float32 [b, c])."""

    def weight_posterior(self, network: nn.Module) -> LinearPosterior | None:
        """The posterior over the last layer of a `network` of `train` that its trainer knows itself, if it does."""
        ...

    def validation(self) -> Iterator[tuple[Tensor, Augmented, Tensor]]:
        """Batches of the validation images with their augmenting function and labels."""


class Posterior(ABC):
    """Fitted networks, ready to predict. Consistent: draw j is the same function for every image it is asked about."""

    networks: list[nn.Module]
    """The fitted networks, member 0 first (checkpoints, warm start)."""

    @abstractmethod
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        """Normalised float images [b, ...] on the networks' device to a `Prediction` (float32, no gradient).

        `augmented` is there for a posterior whose `Uncertainty.n_augmented` asks for it.
        """

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        """Features [b, d] to logits [b, c] by the deterministic network (member 0, dropout off); differentiable in the features."""
        return self.networks[0].head  # type: ignore[return-value]

    @property
    def for_queries(self) -> "Posterior":
        """The posterior that strategies see: itself, but for one that changes what is shown only."""
        return self

    @property
    def numbers(self) -> dict[str, float]:
        """Fitted values (a temperature, a precision), for the record."""
        return {}

    @property
    def state(self) -> dict[str, Tensor]:
        """What `Uncertainty.restore` needs beside the networks' weights to predict the same (a seed of masks, drawn weights)."""
        return {}


class Passes(Posterior):
    """One draw for each network in eval mode, then one of member 0 for each of `n_augmented` transformations of the image.

    Features and point prediction are those of member 0.
    """

    def __init__(self, networks: list[nn.Module], n_augmented: int = 0) -> None:
        self.networks, self.n_augmented = [network.eval() for network in networks], n_augmented

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        features = self.networks[0].embed(x)  # type: ignore[operator]
        logits = [self.head(features.clone()), *(network(x) for network in self.networks[1:])]
        if self.n_augmented:
            assert augmented is not None, "the learner makes as many as n_augmented says"
            logits += [self.networks[0](augmented(j)) for j in range(self.n_augmented)]
        log_probs = torch.stack(logits, dim=1).float().log_softmax(dim=-1)
        return Prediction(log_probs, features.float(), log_probs[:, 0])


def expect_spread(**counts: int) -> None:
    """Raise `ConfigError` for fewer than two draws."""
    for name, count in counts.items():
        expect(
            count >= 2,
            f"Expected uncertainty.{name} to be at least 2, got {count}; one draw has no spread: "
            "raise it, or use uncertainty=point.",
        )


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Part, ABC):
    """How the posterior is approximated. `n_draws` is known before any data is read.

    `temperature`: the learner divides all logits by one number that it fits on the validation images (`Tempered`).
    """

    temperature: bool = False

    added_options: ClassVar[Mapping[str, Any]] = {"temperature": False}
    n_augmented: ClassVar[int] = 0
    """Number of fixed augmentations of each image in `Posterior.predict`, beside the image itself."""
    restarts: ClassVar[bool] = False
    """Whether networks are kept during training, which excludes selection by validation and averaging."""

    @property
    def fixes_prior(self) -> bool:
        """Whether its options fix the prior of the last layer, which a trainer that finds it itself excludes."""
        return False

    needs_dropout: ClassVar[bool] = False
    """Whether its draws are dropout masks, for which a network must be trained with dropout."""
    together: ClassVar[bool] = False
    """Whether its networks must be trained in the same steps, which excludes separate stopping."""

    @property
    @abstractmethod
    def n_draws(self) -> int:
        """k of `Prediction.log_probs`."""

    @abstractmethod
    def fit(self, task: Task, generator: torch.Generator) -> Posterior:
        """Train the networks it needs and return the posterior; `generator` fixes its own draws (masks, weights)."""

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> Posterior:
        """Rebuild the posterior of `fit` from its networks (member 0 first) and its `state`.

        Raises `ConfigError` if an uncertainty does not support it.
        """
        raise ConfigError(
            f"Expected an uncertainty that can be exported, got {type(self).__name__} without restore(networks, state); implement it."
        )


class ByPasses(Uncertainty, ABC):
    """An uncertainty whose draws are whole passes (`Passes`)."""

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> Passes:
        return Passes(networks, self.n_augmented)
