"""What a strategy is: a streaming map and one choice. A new one is a file with a class like these, and a YAML of the same name."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from alframe.errors import expect
from alframe.part import Part
from alframe.types import PoolView, Prediction, Selection, Summary


class Schedule(Part, ABC):
    """Says which strategy asks in a round. A strategy is the schedule that always answers with itself.

    `needs` names what `PoolView` must hold beside the pool: "labeled", "target", "held_out", "head". `min_draws` is the least
    number of posterior draws that the rule makes sense with. Both hold for every round, and are checked before any data is read.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    min_draws: int = 1

    @abstractmethod
    def at(self, round: int, n_labels: int) -> "Strategy":
        """The strategy for the query after round `round` (0-based), when `n_labels` labels have been bought."""


class Strategy(Schedule):
    """A rule that picks what to label next. Leaves are frozen dataclasses whose fields are their YAML keys.

    `needs_pool_pass = False` spares the pool pass altogether.
    """

    needs_pool_pass: ClassVar[bool] = True

    def at(self, round: int, n_labels: int) -> "Strategy":
        return self

    def subset(self, n: int, size: int, generator: torch.Generator) -> Int[Tensor, " m"] | None:
        """Asked before the pool pass: sorted positions of the only images to look at (at least `size` of `n`), or None for all."""
        return None

    @abstractmethod
    def summarize(self, prediction: Prediction) -> Summary:
        """What to keep of a batch: named tensors with axis 0 = sample, as small as the rule allows."""

    @abstractmethod
    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        """`size` distinct positions of the pool (1 <= size <= view.n), the most wanted first; randomness from `generator` only."""


def features_of(prediction: Prediction, unit_length: bool) -> Float[Tensor, "b d"]:
    """The features, on the unit sphere where a strategy's `normalize` asks for that."""
    return normalize(prediction.features) if unit_length else prediction.features


def expect_at_least(part: object, **leasts: int | float) -> None:
    """Raise `ConfigError` for an attribute of `part` that is below its least value."""
    for name, least in leasts.items():
        value = getattr(part, name)
        expect(value >= least, f"Expected {name} of at least {least}, got {value}; raise it.")


def declare_for(wrapper: Schedule, *inner: Schedule) -> None:
    """Make a wrapper (a frozen dataclass) declare what any of the `inner` ones needs."""
    object.__setattr__(wrapper, "needs", frozenset().union(*(one.needs for one in inner)))
    object.__setattr__(wrapper, "min_draws", max(one.min_draws for one in inner))
