"""Distances to the nearest of a growing set of centres, updated only where needed.

A new centre can only shorten such a distance: one that is out of date is an upper bound, which is enough for most points.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import TILE_BYTES, expect_finite, full_precision, mean_of, rows_within, squared_distances

_BLOCK = 1024  # candidates that `farthest` looks at together; it changes the speed only


class NearestCentre:
    """For each of n points an upper bound of the squared distance to its nearest centre; exact where just refreshed.

    `bounds` starts at infinity. Takes 17 bytes per point, and a tile of about `max_bytes` (64 MB at most). Raises `StrategyError`
    for a point that is not finite.
    """

    def __init__(self, factors: Sequence[Float[Tensor, "n _"]], max_bytes: int) -> None:
        expect_finite(*factors)
        self.factors = factors
        self.bounds = factors[0].new_full((len(factors[0]),), math.inf, dtype=torch.float64)
        self.centres: list[int] = []
        self._n_seen = torch.zeros_like(self.bounds, dtype=torch.int64)  # how many of `centres` a bound has taken in
        self._outside: list[Tensor] = []  # centres that are no points, and that rough bounds have taken in by float32
        self._rough = torch.zeros_like(self.bounds, dtype=torch.bool)
        self._max_bytes = max_bytes
        # A tile of t points by t centres of width d takes about 24 t (t + d) bytes: rows in both precisions, products, norms.
        width = sum(f.shape[1] for f in factors)
        self.tile = max(1, int((math.sqrt(width**2 + min(max_bytes, TILE_BYTES) / 6) - width) / 2))

    def cover(self, centres: Sequence[Float[Tensor, "m _"]]) -> None:
        """Take in centres that are not among the points (the labelled images), for every point."""
        expect_finite(*centres)
        columns = torch.arange(len(centres[0]), device=centres[0].device)
        self._lower(self._everywhere(), centres, columns)

    def cover_roughly(self, centres: Sequence[Float[Tensor, "m _"]]) -> None:
        """As `cover`, at a fraction of the cost: float32 distances and what they may be wrong by, exact only where refreshed.

        A float32 inner product of d numbers is wrong by less than d 2^-24 of the product of the lengths, so the bounds stay bounds.
        """
        if len(self.factors) > 1:
            self.cover(centres)
            return
        expect_finite(*centres)
        (points,), (outside,) = self.factors, centres
        origin = mean_of(points, self._max_bytes)
        others = outside.float() - origin
        squares = others.square().sum(dim=1)
        wrong = (points.shape[1] + 8) * 2.0**-23
        with full_precision():
            for rows in self._everywhere().split(rows_within(self._max_bytes, 8 * (len(others) + 2 * points.shape[1]))):
                x = points[rows].float() - origin
                square = x.square().sum(dim=1)
                nearest = torch.addmm(squares, x, others.T, alpha=-2).amin(dim=1) + square
                nearest += wrong * (square + squares.max())
                self.bounds[rows] = torch.minimum(self.bounds[rows], nearest.double())
        self._outside.append(outside)
        self._rough[:] = True

    def refresh(self, positions: Int[Tensor, " m"] | None = None) -> None:
        """Make the bounds at `positions` (all by default) exact for all centres so far."""
        if positions is None:
            positions = self._everywhere()
        rough = positions[self._rough[positions]]
        if len(rough):
            for outside in self._outside:
                self._lower(rough, [outside], torch.arange(len(outside), device=outside.device))
            self._rough[rough] = False
        unseen = self.centres[int(self._n_seen[positions].min()) :]
        if unseen:
            self._lower(positions, self.factors, torch.tensor(unseen, device=positions.device))
        self._n_seen[positions] = len(self.centres)

    def block(self, positions: Int[Tensor, " m"]) -> tuple[Float[Tensor, " m"], Float[Tensor, "m m"]]:
        """Exact bounds at `positions`, and the squared distances between them, in host memory where picks are made one by one."""
        self.refresh(positions)
        rows = [f[positions] for f in self.factors]
        return self.bounds[positions].cpu(), squared_distances(rows, rows).cpu()

    def add(self, picked: list[int], positions: Int[Tensor, " m"], bounds: Float[Tensor, " m"]) -> None:
        """Make the points at `picked` centres; `bounds` at `positions` have taken them in already."""
        self.centres += picked
        self.bounds[positions] = bounds.to(self.bounds)
        self._n_seen[positions] = len(self.centres)

    def _everywhere(self) -> Int[Tensor, " n"]:
        return torch.arange(len(self.bounds), device=self.bounds.device)

    def _lower(
        self, positions: Int[Tensor, " p"], factors: Sequence[Float[Tensor, "m _"]], centres: Int[Tensor, " c"]
    ) -> None:
        for rows in positions.split(self.tile):
            points = [f[rows].double() for f in self.factors]
            for columns in centres.split(self.tile):
                nearest = squared_distances(points, [f[columns] for f in factors]).amin(dim=1)
                self.bounds[rows] = torch.minimum(self.bounds[rows], nearest)


def farthest(nearest: NearestCentre, size: int) -> list[float]:
    """Make centres of up to `size` points, as many as one block of candidates allows; their squared distances, -1 marks a centre."""
    n, block = len(nearest.bounds), min(_BLOCK, nearest.tile)
    top = nearest.bounds.topk(min(n, block + 1))
    candidates = top.indices[:block].sort().values  # sorted, so that the first of equals wins
    outside = max(0.0, float(top.values[-1])) if n > block else 0.0  # nobody outside the block is farther than this
    bounds, distances = nearest.block(candidates)
    positions = candidates.tolist()
    picked: list[int] = []
    scores: list[float] = []
    while len(scores) < size and (distance := float(bounds.max())) >= outside:
        chosen = int(bounds.argmax())
        picked.append(positions[chosen])
        scores.append(distance)
        torch.minimum(bounds, distances[chosen], out=bounds)
        bounds[chosen] = -1
    nearest.add(picked, candidates, bounds)
    return scores
