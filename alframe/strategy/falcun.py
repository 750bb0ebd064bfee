"""Uncertain images first, then increasingly those unlike the picks: sampling in the space of class probabilities."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from alframe.errors import expect
from alframe.scores import margin
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Falcun(Strategy):
    """Picks one by one, each with a probability proportional to (u_i + d̃_i)^gamma.

    u = 1 - (p_(1) - p_(2)) is the margin uncertainty in [0, 1]. d starts as u and is lowered to the L1 distance |p_i - p_j|₁ after
    each pick j. d̃ is d scaled to [0, 1] over the images not picked yet (0 when all d are equal). The score is u + d̃, in [0, 2].
    Where u + d̃ is 0 for every image left (certain, and equal to a pick), they are drawn uniformly, with score 0; `gamma` = 0 draws
    uniformly throughout. p is that of the deterministic network, whatever the number of draws.
    Source: Gilhuber et al. 2024 (ECML PKDD), "FALCUN: A Simple and Efficient Deep Active Learning Strategy". Differs: when all d are
    0 but some u are not, the formula still decides, where the authors' code draws uniformly.
    """

    gamma: float = 10.0

    def __post_init__(self) -> None:
        expect(
            0 <= self.gamma < float("inf"),
            f"Expected a finite gamma of at least 0, got {self.gamma}; 10 is the authors' choice.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        log_probs = prediction.point_log_probs
        return {"probs": log_probs.exp(), "margin": margin(log_probs[:, None])}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        probs, uncertainty = view.pool["probs"], view.pool["margin"].double()
        distance = uncertainty.clone()
        left = torch.ones(view.n, dtype=torch.bool, device=probs.device)
        places = torch.rand(size, dtype=torch.float64, generator=generator).to(probs.device)
        positions, scores = torch.empty_like(places, dtype=torch.int64), torch.empty_like(places)
        for i in range(size):
            relevance = uncertainty + _scaled(distance, left)
            picked = self._draw(relevance, left, places[i])
            positions[i : i + 1], scores[i : i + 1] = picked, relevance[picked]
            left[picked] = False
            distance = torch.minimum(distance, torch.cdist(probs, probs[picked], p=1).squeeze(1).double())
        return Selection(positions.cpu(), scores.float().cpu(), "relevance")

    def _draw(self, relevance: Float[Tensor, " n"], left: Bool[Tensor, " n"], place: Float[Tensor, ""]) -> Tensor:
        """One position [1] of those `left`, with a probability proportional to relevance^gamma; `place` is uniform in [0, 1)."""
        highest = torch.where(left, relevance, 0).max()
        # Over the highest, so that no power overflows.
        weights = torch.where(highest > 0, relevance / highest, 1).pow(self.gamma)
        cumulative = torch.where(left, weights, 0).cumsum(dim=0)
        # Below 1 the place stays below the end, even rounded: behind it are images without weight.
        return torch.searchsorted(cumulative, (place * cumulative[-1]).view(1), right=True)


def _scaled(distance: Float[Tensor, " n"], left: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Distances between 0 and 1 over those `left`."""
    lowest = torch.where(left, distance, torch.inf).min()
    spread = torch.where(left, distance, -torch.inf).max() - lowest
    return (distance - lowest) / torch.where(spread > 0, spread, 1)
