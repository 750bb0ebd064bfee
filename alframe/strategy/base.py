"""The strategy interface: a streaming map and one choice. A new strategy is a file with such a class, and a YAML of the same name."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from alframe.errors import expect
from alframe.part import Part
from alframe.types import PoolView, Prediction, Selection, Summary


class Schedule(Part, ABC):
    """Decides which strategy queries in a round. A strategy is a schedule that always returns itself.

    `needs` names what `PoolView` must hold beside the pool: "labeled", "target", "held_out", "head", "fixed", "patch". `min_draws`
    is the minimum number of posterior draws for the rule. Both hold for every round, and are checked before any data is read.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    min_draws: int = 1

    @abstractmethod
    def at(self, round: int, n_labels: int, counts: Sequence[int], defects: Sequence[int] | None = None) -> "Strategy":
        """The strategy for the query after round `round` (0-based), when `n_labels` labels have been bought.

        `counts`: the usable labels, for training and validation, by class. `defects`: the numbers of the classes that are
        defects; None if nobody said.
        """


class Strategy(Schedule):
    """A rule that picks what to label next. Leaves are frozen dataclasses whose fields are their YAML keys.

    `needs_pool_pass = False` skips the pool pass. `needs_network = False`: the rule makes sense before the network has
    learned anything. The others are replaced by the start rule while the labels show fewer than two classes.
    """

    needs_pool_pass: ClassVar[bool] = True
    needs_network: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """What a ledger line says of an image that this strategy picked as one of several."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    def at(self, round: int, n_labels: int, counts: Sequence[int], defects: Sequence[int] | None = None) -> "Strategy":
        return self

    def subset(self, n: int, size: int, generator: torch.Generator) -> Int[Tensor, " m"] | None:
        """Called before the pool pass: sorted positions of the images to use (at least `size` of `n`), or None for all."""
        return None

    @abstractmethod
    def summarize(self, prediction: Prediction) -> Summary:
        """What to keep of a batch: named tensors with axis 0 = sample, as small as possible."""

    @abstractmethod
    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        """`size` distinct positions of the pool (1 <= size <= view.n), in order of preference; randomness from `generator` only."""


def features_of(prediction: Prediction, unit_length: bool) -> Float[Tensor, "b d"]:
    """The features, scaled to the unit sphere if the strategy's `normalize` is set."""
    return normalize(prediction.features) if unit_length else prediction.features


class OnFeatures(Strategy, ABC):
    """A rule that covers the pool by its features beside the labelled ones, on the unit sphere if `normalize` is set."""

    normalize: bool

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": features_of(prediction, self.normalize)}


def expect_at_least(part: object, **leasts: int | float) -> None:
    """Raise `ConfigError` for an attribute of `part` that is below its minimum."""
    for name, least in leasts.items():
        value = getattr(part, name)
        expect(value >= least, f"Expected {name} of at least {least}, got {value}; raise it.")


def declare_for(wrapper: Schedule, *inner: Schedule) -> None:
    """Let a wrapper (a frozen dataclass) declare the combined needs of its `inner` strategies."""
    object.__setattr__(wrapper, "needs", frozenset().union(*(one.needs for one in inner)))
    object.__setattr__(wrapper, "min_draws", max(one.min_draws for one in inner))
