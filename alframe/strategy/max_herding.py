"""Soft coverage of the pool: greedily pick the image that adds most coverage."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from alframe.engine.coverage import Coverage
from alframe.engine.ties import fill_at_random
from alframe.errors import expect
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class MaxHerding(Strategy):
    """Greedy maximisation of mean_i max_{s in labelled or picked} exp(-|h_i - h_s|²/radius²) over the pool.

    The score is what the image added to that mean when it was picked, in [0, 1]. Made for few labels, and for none: it is a
    good first query. Once nothing is left to gain (only copies of covered images) the rest are random, with score 0. Deterministic up
    to `max_points` images; above it the mean is estimated on that many, drawn at random, and any image may be picked.
    Source: Bae, Noh & Sutherland 2024, arXiv:2407.12212. Differs: lazy; only images whose outdated gain, an upper bound, is still
    among the largest are re-evaluated. The labelled images are not in the mean: they cover themselves.
    """

    radius: float = 1.0
    normalize: bool = True
    max_points: int = 5000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect(self.radius > 0, f"Expected a radius above 0, got {self.radius}; 1 suits features of length 1.")
        expect_at_least(self, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": features_of(prediction, self.normalize)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        return herd(view, self.radius, None, self.max_points, size, generator)


def herd(
    view: PoolView,
    radius: float,
    weights: Float[Tensor, " n"] | None,
    max_points: int,
    size: int,
    generator: torch.Generator,
) -> Selection:
    """Greedy soft coverage of the pool weighted by `weights`; where these have nothing left to gain, by coverage alone, then at random."""
    features = view.pool["features"]
    coverage = Coverage(features, radius, generator, weights=weights, max_points=max_points, max_bytes=view.max_bytes)
    if view.labeled is not None:
        coverage.cover(view.labeled["features"])
    picked, gains = coverage.greedy(size, generator)
    if weights is not None and len(picked) < size:
        coverage.weights = torch.ones_like(coverage.weights)
        picked += coverage.greedy(size - len(picked), generator, picked)[0]
    picked = fill_at_random(picked, view.n, size, generator)
    scores = torch.tensor(gains + [0.0] * (size - len(gains)), dtype=torch.float64) / view.n
    return Selection(torch.tensor(picked), scores.float(), "coverage_gain")
