"""Follow the density of the gradients: split the largest cluster at its farthest image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision, norms, rows_within, squared_distances
from alframe.engine.gradients import last_layer_gradients
from alframe.engine.ties import fill_at_random, highest_of_equals, random_order
from alframe.errors import StrategyError, expect
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection, Summary

# A new centre takes a point over when its squared distance is below this share: rounding takes none.
_NEARER = 1 - 1e-10


@dataclass(frozen=True)
class Lcmd(Strategy):
    """Largest cluster, maximum distance, on g_i = (p - e_ŷ) ⊗ [h; 1], the last layer's gradient for the predicted label ŷ.

    Every pool image belongs to the nearest of the labelled and picked ones, the earlier of equals. Of the cluster with the largest
    sum of squared distances the farthest image is picked; its score is its squared distance. Without labels the first pick is
    the largest gradient, with its squared norm for a score. When every image left equals a centre, the rest are drawn at random, with
    score 0. Deterministic: ties go by the generator. With `sketch` the gradients are first projected to so many dimensions,
    (R_q q) ⊙ (R_h h) / sqrt(sketch) with Gaussian R_q and R_h, which keeps inner products in expectation only.
    Source: Holzmüller et al. 2023, arXiv:2203.09410 (LCMD-TP). Differs: classification, where the paper has regression; the gradient of
    the last layer and not of all. Raises `StrategyError` when the sketched pool takes more than `query.max_bytes`.
    """

    sketch: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})

    def __post_init__(self) -> None:
        expect(
            self.sketch is None or self.sketch >= 1,
            f"Expected sketch to be null or at least 1 dimension, got {self.sketch}; null is exact.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        return last_layer_gradients(prediction)

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        order = random_order(view.n, generator, view.pool["features"].device)
        pool, labeled = _factors(view.pool), _factors(view.labeled) if view.labeled else []
        expect_finite(*pool)
        if labeled:
            expect_finite(*labeled)
        if self.sketch is not None:
            pool, labeled = self._project(pool, labeled, view.max_bytes, generator)
        partition = _Partition(pool, view.max_bytes)
        positions: list[int] = []
        scores: list[float] = []
        if labeled and len(labeled[0]):
            partition.cover(labeled)
        else:
            squares = norms(pool).square()
            positions.append(highest_of_equals(squares, order))
            scores.append(float(squares[positions[0]]))
            partition.add(positions[0])
        while len(positions) < size:
            farthest = partition.of_the_largest()
            position = highest_of_equals(farthest, order)
            if not float(farthest[position]) > 0:
                break
            positions.append(position)
            scores.append(float(farthest[position]))
            partition.add(position)
        positions = fill_at_random(positions, view.n, size, generator)
        scores += [0.0] * (size - len(scores))
        return Selection(torch.tensor(positions), torch.tensor(scores), "squared_distance")

    def _project(
        self, pool: list[Tensor], labeled: list[Tensor], max_bytes: int, generator: torch.Generator
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Both sets sketched by the same two Gaussian matrices, each as one factor [n, sketch]."""
        assert self.sketch is not None
        taken = 4 * self.sketch * len(pool[0])
        expect(
            taken <= max_bytes,
            f"Expected sketched gradients within query.max_bytes = {max_bytes}, got {taken} bytes for {len(pool[0])} images by "
            f"{self.sketch} dimensions; set sketch to null, which is exact and takes no such memory, or raise query.max_bytes.",
            StrategyError,
        )
        maps = [
            torch.randn(factor.shape[1], self.sketch, dtype=torch.float64, generator=generator).to(factor.device)
            for factor in pool
        ]
        return [_sketch(pool, maps, max_bytes)], [_sketch(labeled, maps, max_bytes)] if labeled else []


def _factors(summary: Summary) -> list[Tensor]:
    return [summary["gradient"], summary["features"]]


def _sketch(factors: list[Tensor], maps: list[Tensor], max_bytes: int) -> Float[Tensor, "n s"]:
    n, dimensions = len(factors[0]), maps[0].shape[1]
    out = factors[0].new_empty(n, dimensions)
    width = sum(f.shape[1] for f in factors)
    for start in range(0, n, rows := rows_within(max_bytes, 8 * (width + 3 * dimensions))):
        parts = [f[start : start + rows].double() @ m for f, m in zip(factors, maps, strict=True)]
        out[start : start + rows] = math.prod(parts[1:], start=parts[0]) / math.sqrt(dimensions)
    return out


class _Partition:
    """The pool divided among centres: the squared distance of each point to the nearest, and the number of that centre.

    Takes 24 bytes per point, a few times 8 more while it works, and a tile within `max_bytes`.
    """

    def __init__(self, factors: Sequence[Float[Tensor, "n _"]], max_bytes: int) -> None:
        self.factors = factors
        n = len(factors[0])
        self.distances = factors[0].new_full((n,), math.inf, dtype=torch.float64)
        self.centre = torch.zeros(n, dtype=torch.int64, device=factors[0].device)
        self.lengths = norms(factors)
        self.n_centres = 0
        self._max_bytes = max_bytes
        self._width = sum(f.shape[1] for f in factors)
        self._rows = rows_within(max_bytes, 16 * self._width + 64)
        # How far a float32 inner product may be off, as a share of the lengths.
        self._rounding = (self._width + 8) * torch.finfo(torch.float32).eps

    def cover(self, centres: Sequence[Float[Tensor, "m _"]]) -> None:
        """Add centres that are not among the points (the labelled images)."""
        n, m = len(self.distances), len(centres[0])
        wide = max(1, min(m, 1024, self._max_bytes // (64 * self._width)))
        rows = rows_within(self._max_bytes, 8 * (2 * self._width + 5 * wide))
        for first in range(0, m, wide):
            some = [f[first : first + wide] for f in centres]
            numbers = torch.arange(first, first + len(some[0]), device=self.centre.device)
            for start in range(0, n, rows):
                here = slice(start, start + rows)
                distances = squared_distances([f[here] for f in self.factors], some)
                nearest = distances.amin(dim=1)
                equals = distances.mul_(_NEARER) <= nearest[:, None]
                self._lower(here, nearest, torch.where(equals, numbers, m).amin(dim=1))
        self.n_centres += m

    def of_the_largest(self) -> Float[Tensor, " n"]:
        """The squared distances of the points in the cluster where they sum to most (in all such clusters); -1 elsewhere."""
        sums = self.distances.new_zeros(self.n_centres).index_add_(0, self.centre, self.distances)
        largest = sums >= sums.max() * _NEARER
        return torch.where(largest[self.centre], self.distances, -1.0)

    def add(self, position: int) -> None:
        """Make a point a centre. Inner products in float32 select the points that may move to it; only those are compared exactly."""
        centre = [f[position : position + 1] for f in self.factors]
        with full_precision():
            products = math.prod(
                (f @ c[0] for f, c in zip(self.factors[1:], centre[1:], strict=True)),
                start=self.factors[0] @ centre[0][0],
            )
        length = self.lengths[position]
        bounds = self.lengths.square() + length.square() - 2 * (products + self._rounding * length * self.lengths)
        for here in (bounds < self.distances).nonzero().squeeze(1).split(self._rows):
            self._lower(here, squared_distances([f[here] for f in self.factors], centre)[:, 0], self.n_centres)
        self._lower(torch.tensor([position], device=self.centre.device), self.distances.new_zeros(1), self.n_centres)
        self.n_centres += 1

    def _lower(self, here: slice | Tensor, distances: Float[Tensor, " m"], numbers: Int[Tensor, " m"] | int) -> None:
        nearer = distances < self.distances[here] * _NEARER
        self.distances[here] = torch.where(nearer, distances, self.distances[here])
        self.centre[here] = torch.where(nearer, numbers, self.centre[here])
