"""D² sampling: each next centre with a probability proportional to its squared distance to the nearest centre so far.

Exact by rejection: proposals come from outdated distances, upper bounds, and are accepted with the share that is left of them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alframe.engine.nearest_centre import NearestCentre

BLOCK = 256  # proposals drawn together


def sample_d_squared(
    nearest: NearestCentre, size: int, generator: torch.Generator, weights: Float[Tensor, " n"] | None = None
) -> list[float]:
    """Make up to `size` more points centres of `nearest`, which has at least one; their squared distances when they were picked.

    Fewer than `size` when every point left equals a centre (or has weight 0). With `weights` a point's probability is
    proportional to weight times squared distance.
    """
    scores: list[float] = []
    while len(scores) < size and float(_mass(nearest, weights).sum()) > 0:
        scores += _sample_block(nearest, size - len(scores), generator, weights)
    return scores


def _mass(nearest: NearestCentre, weights: Tensor | None) -> Tensor:
    return nearest.bounds if weights is None else nearest.bounds * weights


def _sample_block(nearest: NearestCentre, size: int, generator: torch.Generator, weights: Tensor | None) -> list[float]:
    """Make centres of up to `size` points, drawn by rejection from one block of proposals; their squared distances."""
    cumulative = _mass(nearest, weights).cumsum(dim=0)
    place, chance = torch.rand(2, BLOCK, dtype=torch.float64, generator=generator)
    proposals = torch.searchsorted(cumulative, place.to(cumulative) * cumulative[-1], right=True)
    proposals.clamp_max_(len(cumulative) - 1)  # an index that rounding has put past the end
    proposed = nearest.bounds[proposals].cpu()
    bounds, distances = nearest.block(proposals)
    positions = proposals.tolist()
    picked: list[int] = []
    scores: list[float] = []
    for i in range(BLOCK):
        if len(picked) < size and chance[i] * proposed[i] < bounds[i]:
            picked.append(positions[i])
            scores.append(float(bounds[i]))
            torch.minimum(bounds, distances[i], out=bounds)
    nearest.add(picked, proposals, bounds)
    if len(picked) < min(size, BLOCK // 2):
        nearest.refresh()  # the bounds have become so loose that one matrix product is cheaper than more rejections
    return scores
