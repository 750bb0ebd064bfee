"""Fitting a network to the labelled images: the interface, and the values it works on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from alframe.engine.bayes_linear import LinearPosterior
from alframe.images import Augment
from alframe.part import Part
from alframe.pixels import Pixels, Prepare
from alframe.types import Examples

Stream = Callable[[str], torch.Generator]
"""`stream(purpose)`: the random streams of one network's fit."""


@dataclass(frozen=True)
class FitReport:
    """The result of a fit: `loss` is the mean training loss of its last steps (nats), `best_step` the step whose weights were kept.

    `posterior` is what `Fitter.posterior` gives.
    """

    steps: int
    loss: float
    best_step: int
    validation_accuracy: float | None = None
    posterior: LinearPosterior | None = None


@dataclass(frozen=True)
class Lesson:
    """The data of one fit: `examples` of `pixels`, augmented by `augment` (if any) and prepared by `prepare`.

    `validation` is there for a trainer that needs it; with a `description`, a progress bar is shown. `resampled`: this is one
    of several networks that should differ, for a trainer whose fit has no randomness of its own.
    """

    pixels: Pixels
    examples: Examples
    n_classes: int
    prepare: Prepare
    augment: Augment | None = None
    validation: Examples | None = None
    description: str = ""
    resampled: bool = False


@dataclass(frozen=True)
class Cycles:
    """The schedule of the learning rate starts again `count` times; `at_end` is called after the last step of each."""

    count: int = 1
    at_end: Callable[[], None] = lambda: None


class Fitter(Part, ABC):
    """Fits networks. What a trainer does not say here, it does not do."""

    linear_only: ClassVar[bool] = False
    """Whether it fits one linear layer on fixed features, without steps and without dropout."""
    matches_pool: bool = False
    """Whether shown probabilities are shifted to the shares of the classes in the pool (`alframe.uncertainty.shifted`)."""
    warm_start: bool = False
    validation_rules: tuple[str, ...] = ()
    """The options in use that read validation images."""
    ema: float | None = None
    channels_last: bool | None = False

    @property
    def needs_validation(self) -> bool:
        return bool(self.validation_rules)

    def dtype(self, device: torch.device) -> torch.dtype:
        """The precision of its forward passes on `device`."""
        return torch.float32

    def begin(self, network: nn.Module, examples: Examples, n_classes: int) -> None:
        """Change the initial weights of a new `network`, whose first fit is to `examples`, at least one of them."""

    @abstractmethod
    def fit(self, network: nn.Module, lesson: Lesson, stream: Stream, cycles: Cycles | None = None) -> FitReport:
        """Train `network` in place and leave it in eval mode. Raises `TrainingError`."""

    def fit_together(self, networks: Sequence[nn.Module], lesson: Lesson, streams: Sequence[Stream]) -> list[FitReport]:
        """Train several networks of one architecture, each by its own streams."""
        return [self.fit(network, lesson, stream) for network, stream in zip(networks, streams, strict=True)]

    def posterior(self, network: nn.Module, lesson: Lesson, stream: Stream) -> LinearPosterior | None:
        """The Gaussian over the last layer's weights that the fit has of itself, if any."""
        return None
