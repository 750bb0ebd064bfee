"""Uniform random sampling: the baseline that every other rule must beat."""

from dataclasses import dataclass

import torch

from alframe.strategy.base import Strategy
from alframe.strategy.top_score import highest
from alframe.types import RANDOM, PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Random(Strategy):
    """Uniform without replacement; the score is the image's own uniform draw, in [0, 1), and carries no information about the image."""

    needs_pool_pass = False
    needs_network = False

    def summarize(self, prediction: Prediction) -> Summary:
        return {}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        draws = torch.rand(view.n, generator=generator)
        picked = highest(draws, size, generator)
        return Selection(picked, draws[picked], RANDOM, sources=(RANDOM,) * size)
