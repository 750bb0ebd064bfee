"""Cover the pool: repeatedly pick the image farthest from all labelled and picked ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from alframe.engine.nearest_centre import NearestCentre, farthest
from alframe.errors import expect
from alframe.strategy.base import Strategy, features_of
from alframe.types import PoolView, Prediction, Selection, Summary

_SPARE = 1024  # extra candidates beside the quantile; affects only speed


@dataclass(frozen=True)
class CoreSet(Strategy):
    """k-centre greedy on features: argmax over the pool of min over labelled and picked of |h_i - h_j|.

    The score is that distance when the image was picked. Without labels the first pick is the image nearest to the mean
    of the pool, and its score is its distance to the farthest image. `normalize` puts features on the unit sphere first.
    Deterministic: equal distances go to any one of the equals.
    With an `outlier_rate` r in [0, 1) the farthest floor(r m) of the m images left are skipped at each pick: the pick is at the
    (1 - r) quantile of the distances. The farthest images are often outliers.
    Source: Sener & Savarese 2018, arXiv:1708.00489. Differs: the greedy rule alone, exact and lazy: only images whose outdated
    distance, an upper bound, is still among the largest are compared with new centres. Their mixed-integer refinement, which leaves
    a number of outliers uncovered, is left out; `outlier_rate` is a greedy rule of our own to the same end, without a guarantee.
    """

    normalize: bool = False
    outlier_rate: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect(
            0 <= self.outlier_rate < 1,
            f"Expected an outlier_rate from 0 to below 1, got {self.outlier_rate}; 0 picks the farthest image.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": features_of(prediction, self.normalize)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        features = view.pool["features"]
        nearest = NearestCentre([features], view.max_bytes)
        scores: list[float] = []
        if view.labeled is not None and len(view.labeled["features"]):
            nearest.cover_roughly([view.labeled["features"]])
        else:
            scores.append(_start_in_the_middle(nearest, view))
        if self.outlier_rate > 0:
            scores += _at_quantile(nearest, size - len(scores), self.outlier_rate)
        while len(scores) < size:
            scores += farthest(nearest, size - len(scores))
        return Selection(
            torch.tensor(nearest.centres), torch.tensor(scores, dtype=torch.float64).sqrt().float(), "distance"
        )


def _start_in_the_middle(nearest: NearestCentre, view: PoolView) -> float:
    """Make the point nearest to the mean the first centre; its squared distance to the farthest point."""
    to_mean = NearestCentre(nearest.factors, view.max_bytes)
    to_mean.cover([nearest.factors[0].mean(dim=0, keepdim=True)])
    first = to_mean.bounds.argmin(dim=0, keepdim=True)
    nearest.add(first.tolist(), first, torch.tensor([-1.0]))
    nearest.refresh()
    return max(0.0, float(nearest.bounds.max()))


def _at_quantile(nearest: NearestCentre, size: int, outlier_rate: float) -> list[float]:
    """Make centres of `size` points, each with a share of the others farther away; their squared distances."""
    scores: list[float] = []
    # Looked at for the last pick: one centre behind at most.
    before = torch.zeros_like(nearest.bounds, dtype=torch.bool)
    while len(scores) < size:
        left = len(nearest.bounds) - len(nearest.centres)
        skipped, spare = int(outlier_rate * left), _SPARE
        while True:
            top = nearest.bounds.topk(min(left, skipped + 1 + spare))  # picked points are at -1 and never among them
            candidates, outside = top.indices[:-1], top.values[-1]
            if len(top.indices) == left:
                candidates, outside = top.indices, top.values.new_tensor(-1.0)
            known = before[candidates]
            for some in (candidates[~known], candidates[known]):  # a refresh goes as far back as its oldest point
                if len(some):
                    nearest.refresh(some)
            before[candidates] = True
            largest = nearest.bounds[candidates].topk(skipped + 1)
            if largest.values[-1] >= outside:
                break
            spare *= 2
        chosen = candidates[largest.indices[-1:]]
        scores.append(float(largest.values[-1]))
        nearest.add(chosen.tolist(), chosen, chosen.new_full((1,), -1, dtype=torch.float64))
        before.zero_()
        before[candidates] = True
    return scores
