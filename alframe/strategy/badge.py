"""Diverse and uncertain: k-means++ seeding on hallucinated last-layer gradients."""

from dataclasses import dataclass
from typing import Literal

import torch

from alframe.engine.d_squared import sample_d_squared
from alframe.engine.distances import norms
from alframe.engine.gradients import last_layer_gradients
from alframe.engine.nearest_centre import NearestCentre
from alframe.engine.ties import fill_at_random
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Badge(Strategy):
    """D² sampling of g_i = (p - e_ŷ) ⊗ [h; 1], the last layer's gradient for the hallucinated label ŷ = argmax p.

    Each next pick has a probability proportional to its squared distance to the nearest pick so far, which is its score. The
    first is the gradient with the largest norm (`first="norm"`, as the authors' code) or uniform (`first="sample"`, as
    k-means++); its score is its squared norm. When every image left equals a pick, the rest are uniform, with score 0.
    p, ŷ and h are those of the deterministic network, not of the posterior mean.
    Source: Ash et al. 2020, arXiv:1906.03671. Differs: gradients stay factored, and D² sampling is by rejection (still exact).
    """

    first: Literal["norm", "sample"] = "norm"

    def summarize(self, prediction: Prediction) -> Summary:
        return last_layer_gradients(prediction)

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        nearest = NearestCentre([view.pool["gradient"], view.pool["features"]], view.max_bytes)
        lengths = norms(nearest.factors)
        highest = lengths == lengths.max() if self.first == "norm" else torch.ones_like(lengths, dtype=torch.bool)
        equals = highest.nonzero().squeeze(1)
        first = equals[torch.randint(len(equals), (1,), generator=generator).tolist()] if len(equals) > 1 else equals
        scores = [float(lengths[first]) ** 2]
        nearest.add(first.tolist(), first, torch.zeros(1))
        nearest.refresh()
        scores += sample_d_squared(nearest, size - len(scores), generator)
        picked = fill_at_random(nearest.centres, view.n, size, generator)
        scores += [0.0] * (size - len(scores))
        return Selection(torch.tensor(picked), torch.tensor(scores), "squared_distance")
