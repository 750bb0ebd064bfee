"""What a strategy is: a streaming map and one choice. A new one is a file with a class like these, and a YAML of the same name."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch

from alframe.types import Prediction, Selection, Summary, Views


class Strategy(ABC):
    """A rule that picks what to label next. Leaves are frozen dataclasses whose fields are their YAML keys.

    `needs` names what `Views` must hold beside the pool: "labeled", "target", "held_out", "head". `min_draws` is the least
    number of posterior draws that the rule makes sense with. `reads_pool = False` spares the pool pass altogether.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    min_draws: int = 1
    reads_pool: ClassVar[bool] = True

    @abstractmethod
    def summarize(self, prediction: Prediction) -> Summary:
        """What to keep of a batch: named tensors with axis 0 = sample, as small as the rule allows."""

    @abstractmethod
    def select(self, views: Views, size: int, generator: torch.Generator) -> Selection:
        """`size` distinct positions of the pool (1 <= size <= views.n), the most wanted first; randomness from `generator` only."""
