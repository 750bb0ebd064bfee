"""Coverage of a pool by a set of images, and its greedy maximisation: herding, ProbCover and DCoM.

No n x n matrix and no graph is kept: rows of the kernel are computed again for the few images that may still win.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision, mean_of, quick_squared_distances, rows_within
from alframe.engine.k_means import k_means
from alframe.engine.lazy_greedy import lazy_greedy
from alframe.engine.sub_pool import sub_pool
from alframe.errors import StrategyError, expect

_COLUMNS = 1024  # images to cover that are summed over at once, in float32; always so many, so that sums do not follow max_bytes
_ROWS = 2048  # images whose gain is computed at once; more are no faster
_TILE_BYTES = 1 << 25
_SAME = 4e-6  # of the squared lengths: squared distances below are rounding, ten times over
_NOTHING = 1e-6  # of all weight: less is what rounding gives to a copy of an image that is covered,
_ALONE = 1e-3  # but a share of the largest weight that an image adds for itself alone is none, however many there are
_BALLS = 2000  # balls sampled for the purity rule: a share of 95 % is known to about 0.5 points
_INSIDE = 1 - 1e-4  # that radius is a distance between two images; rounding must not put one in the other's ball


class Coverage:
    """F(S) = sum_i w_i max_{s in L or S} k(x_i, x_s); k = exp(-|x_i - x_s|²/radius²), or with `ball` 1[|x_i - x_s| < radius].

    `covered` [n] is that maximum so far, in [0, 1]. Exact for up to `max_points` points. Above it the gain of an image is its own
    term, and the others' estimated without bias from `max_points` random ones, the same for every image: time grows with n, not n².
    Distances are float32 on centred data; below 0.3 % of the two points' own length they are 0. Takes a copy of the points to
    cover and of those added later, 12 bytes per point, and tiles of about 32 MB. Raises `StrategyError` for points that are not
    finite.
    """

    def __init__(
        self,
        points: Float[Tensor, "n d"],
        radius: float,
        generator: torch.Generator,
        *,
        ball: bool = False,
        weights: Float[Tensor, " n"] | None = None,
        max_points: int,
        max_bytes: int = 1 << 30,
    ) -> None:
        expect_finite(points)
        self.points, self.ball, self.max_bytes = points, ball, max_bytes
        self.weights = points.new_ones(len(points), dtype=torch.float32) if weights is None else weights.float()
        self.covered = torch.zeros_like(self.weights)
        chosen = sub_pool(len(points), max_points, 1, generator)
        self._sample = torch.arange(len(points)) if chosen is None else chosen
        self._sample = self._sample.to(points.device)
        self._origin = mean_of(points, max_bytes)
        self._scale = math.sqrt(2) / radius  # then log k(x, y) = x·y - |x|²/2 - |y|²/2
        self._to_cover = self._scaled(points[self._sample])
        self._step = max(1, min(_ROWS, min(max_bytes, _TILE_BYTES) // (8 * _COLUMNS + 8 * points.shape[1])))

    def cover(self, others: Float[Tensor, "m d"]) -> None:
        """Add images that are not among the points (the labelled ones, if any)."""
        expect_finite(others)
        blocks = [self._scaled(block) for block in others.split(_COLUMNS) if len(block)]
        with full_precision():
            for start in range(0, len(self.points), self._step):
                rows = slice(start, start + self._step)
                points = self._scaled(self.points[rows])
                for block in blocks:
                    nearest = self._kernel(self._exponents(points, block).amax(dim=1))
                    self.covered[rows] = torch.maximum(self.covered[rows], nearest)

    def take(self, position: int) -> None:
        """Add one of the points."""
        self.cover(self.points[position : position + 1])
        self.covered[position] = 1

    def gains(self, positions: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """What each of these points would add to F now: sum_i w_i (k(x_i, x_j) - covered_i)_+."""
        # Filled in place: many small results between large temporaries would keep the allocator from reusing memory.
        gains = torch.empty(len(positions), dtype=torch.float64, device=positions.device)
        for start in range(0, len(positions), self._step):
            gains[start : start + self._step] = self._gains(positions[start : start + self._step])
        return gains

    def greedy(
        self, size: int, generator: torch.Generator, picked: list[int] | None = None
    ) -> tuple[list[int], list[float]]:
        """Up to `size` positions that add most to F one after another, none of `picked`, and what each added; equals by `generator`.

        The answer is shorter when no point adds anything any more (where k is soft: less than a millionth of all weight, or than a
        thousandth of the largest weight).
        """
        bounds = self.gains(torch.arange(len(self.points), device=self.covered.device))
        if picked:
            bounds[torch.tensor(picked, device=bounds.device)] = -math.inf
        total, largest = float(self.weights.sum(dtype=torch.float64)), float(self.weights.max())
        at_least = 0.0 if self.ball else min(_NOTHING * total, _ALONE * largest)
        return lazy_greedy(bounds, self.gains, self.take, size, generator, at_least=at_least)

    def _gains(self, positions: Tensor) -> Tensor:
        others = torch.zeros(len(positions), dtype=torch.float64, device=positions.device)
        place = torch.searchsorted(self._sample, positions).clamp_max_(len(self._sample) - 1)
        sampled = self._sample[place] == positions
        rows = torch.arange(len(positions), device=positions.device)
        with full_precision():
            points = self._scaled(self.points[positions])
            for start in range(0, len(self._sample), _COLUMNS):
                columns = self._sample[start : start + _COLUMNS]
                kernel = self._kernel(self._exponents(points, self._to_cover[start : start + _COLUMNS]))
                own = (place - start).clamp(0, len(columns) - 1)
                kernel[rows, own] = kernel[rows, own].masked_fill_(sampled & (own + start == place), 0)
                others += kernel.sub_(self.covered[columns]).clamp_min_(0) @ self.weights[columns]
        n_others = (len(self._sample) - sampled.double()).clamp_min(1)
        own_term = self.weights[positions].double() * (1 - self.covered[positions].double())
        return own_term + others * (len(self.points) - 1) / n_others  # in this order, so that counts stay whole

    def _scaled(self, points: Tensor) -> Tensor:
        return (points.float() - self._origin).mul_(self._scale)

    def _exponents(self, points: Tensor, others: Tensor) -> Tensor:
        """log k of the Gaussian kernel, -|x - y|²/2 of scaled points; 0 for copies."""
        a, b = points.square().sum(dim=1, keepdim=True).div_(2), others.square().sum(dim=1).div_(2)
        products = torch.addmm(-b, points, others.T).sub_(a)
        return products.masked_fill_(products > (a + b).mul_(-_SAME), 0)

    def _kernel(self, exponents: Tensor) -> Tensor:
        return exponents.gt_(-1) if self.ball else exponents.exp_()


def pure_radius(
    points: Float[Tensor, "n d"], n_classes: int, purity: float, generator: torch.Generator, max_bytes: int = 1 << 30
) -> float:
    """The largest radius at which a share `purity` of the balls hold one pseudo-label only; infinite if all points share one.

    Pseudo-labels are the clusters of k-means with `n_classes` centres. A ball is pure up to the distance to the nearest point of
    another cluster: the answer is a quantile of those, over at most 2,000 balls. Raises `StrategyError` where that is 0 up to rounding.
    Source: Yehuda et al. 2022, arXiv:2205.11320. Differs: the quantile instead of a search over a grid; a sample of the balls.
    """
    labels = k_means(points, n_classes, generator, max_bytes=max_bytes).labels
    origin = mean_of(points, max_bytes)
    chosen = torch.randperm(len(points), generator=generator)[:_BALLS].to(points.device)
    nearest = points.new_full((len(chosen),), math.inf, dtype=torch.float32)
    centres = points[chosen].float() - origin
    step = rows_within(max_bytes, 8 * (len(chosen) + points.shape[1]))
    with full_precision():
        for start in range(0, len(points), step):
            distances = quick_squared_distances(centres, points[start : start + step].float() - origin)
            distances.masked_fill_(labels[chosen, None] == labels[start : start + step], math.inf)
            nearest = torch.minimum(nearest, distances.amin(dim=1))
    impure = int((1 - purity) * len(chosen) + 1e-9)  # so many balls may hold another label
    radius = float(nearest.sort().values[impure].sqrt()) * _INSIDE
    expect(
        radius > 0,
        "Expected clusters of features some distance apart, got 0 up to rounding (one image may have features far longer than all "
        "others); set radius to a number, or normalize to true.",
        StrategyError,
    )
    return radius
