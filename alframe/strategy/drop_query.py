"""Drop most of an image's features several times; cluster and query images whose predictions change."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision
from alframe.engine.k_means import representatives
from alframe.errors import expect
from alframe.strategy.base import Strategy, expect_at_least
from alframe.strategy.top_score import highest
from alframe.types import PoolView, Prediction, Selection, Summary

_BLOCK = 1 << 18  # numbers drawn together: fixed, so that the masks of an image do not follow `max_bytes`


@dataclass(frozen=True)
class DropQuery(Strategy):
    """Images whose prediction ŷ changes in more than half of `draws` passes with dropout on the features; q diverse ones of them.

    A pass sees m_j h_j / (1 - `rate`) in place of feature h_j, with m_j = 0 at probability `rate` and 1 otherwise, drawn separately for
    each image. k-means with q clusters on these candidates (of unit length with `normalize`) gives the q nearest to its centres.

    The score is the share of passes that disagree with ŷ. With fewer than q candidates, all are taken and then those with the next
    most disagreement, ties by the generator. h and ŷ are those of the deterministic network. More than `max_points` candidates are
    thinned to that many at random before they are clustered.
    Source: Gupte et al. 2024 (TMLR), arXiv:2401.14555. Differs: the features are those before the head, whatever comes before them;
    nothing is said of the first labels, for which the authors take the images nearest to k-means centres.
    """

    draws: int = 3
    rate: float = 0.75
    normalize: bool = True
    max_points: int = 50_000

    needs: ClassVar[frozenset[str]] = frozenset({"head"})

    def __post_init__(self) -> None:
        expect_at_least(self, draws=1, max_points=1)
        expect(0 < self.rate < 1, f"Expected a rate between 0 and 1, got {self.rate}; 0.75 is the authors' choice.")

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": prediction.features}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        assert view.head is not None
        features = view.pool["features"]
        expect_finite(features)
        mismatches = self._mismatches(features, view.head, view.n_classes, generator)
        rates = mismatches / self.draws
        candidates = (2 * mismatches > self.draws).nonzero().squeeze(1)
        if len(candidates) <= size:
            picked = highest(rates, size, generator)
        else:
            picked = representatives(view, candidates, size, generator, self.normalize, self.max_points)
        return Selection(picked.cpu(), rates[picked].cpu(), "mismatch_rate", pool_scores=rates.cpu())

    def _mismatches(
        self,
        features: Float[Tensor, "n d"],
        head: Callable[[Tensor], Tensor],
        n_classes: int,
        generator: torch.Generator,
    ) -> Int[Tensor, " n"]:
        """In how many of the passes the prediction is another than without dropout."""
        d = features.shape[1]
        rows = max(1, _BLOCK // ((self.draws + 1) * max(d, n_classes)))
        found = []
        with torch.no_grad(), full_precision():
            for h in features.split(rows):
                kept = torch.rand(len(h), self.draws, d, generator=generator) >= self.rate
                dropped = h[:, None] * kept.to(h.device) / (1 - self.rate)
                passes = torch.cat([h[:, None], dropped], dim=1)  # the first pass drops nothing
                labels = head(passes.flatten(0, 1)).argmax(dim=1).view(len(h), -1).to(h.device)
                found.append((labels[:, 1:] != labels[:, :1]).sum(dim=1))
        return torch.cat(found)
