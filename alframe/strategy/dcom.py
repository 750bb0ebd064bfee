"""Balls that grow where the network is accurate, then uncertainty once they cover the pool: for few to many labels."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.coverage import Coverage
from alframe.engine.distances import expect_finite, full_precision, quick_squared_distances, rows_within
from alframe.engine.lazy_greedy import lazy_greedy
from alframe.engine.sub_pool import sub_pool
from alframe.errors import expect
from alframe.scores import margin
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.strategy.prob_cover import ProbCover, balls, expect_radius, radius_of
from alframe.types import PoolView, Prediction, Selection, Summary

_HALVINGS = 10  # of the interval in which a ball's radius is searched


@dataclass(frozen=True)
class DCoM(Strategy):
    """Greedy: argmax of S u_i / max u + (1 - S) d_i / max d, which is the score. u is the uncertainty, d_i what i's ball would cover.

    Each labelled image has its own ball radius: where bisection of (0, max_radius) ends for a share 0.4 + 0.2 C₀ of the
    images in it that have its label by the network's prediction. C₀ is the share of all images that balls of the first radius cover, C the share that
    the balls found cover, and S = (1 + e^{-k (1 - a)}) / (1 + e^{-k (C - a)}) the competence (a `centre`, k `steepness`).
    Images of the pool have balls of the mean radius; d_i counts those in it that no ball covers yet. u = 1 - (p_(1) - p_(2)) of the
    deterministic network, shifted and scaled to [0, 1] over all images. Once all is covered only u is left, then random choice.
    Without labels it is `prob_cover` with the first `radius` (null: the largest with 95 % pure balls).
    Above `max_points` images, purity and d are estimated on that many, drawn at random.
    Source: Mishal & Weinshall 2024, arXiv:2407.01804. Differs: all radii are recomputed by the network at hand, where the authors
    keep those of earlier rounds, so C₀ comes from the first radius; ten halvings, where they stop at 0.02; lazy.
    """

    radius: float | None = None
    max_radius: float = 1.1
    centre: float = 0.8
    steepness: float = 50.0
    normalize: bool = True
    max_points: int = 5000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect_radius(self.radius)
        expect(
            0 < self.max_radius < math.inf,
            f"Expected a max_radius above 0, got {self.max_radius}; 1.1 is the default, for features of length 1.",
        )
        expect(0 <= self.centre <= 1, f"Expected a centre in [0, 1], got {self.centre}; 0.8 is the authors' default.")
        expect(self.steepness > 0, f"Expected a steepness above 0, got {self.steepness}; 50 is the authors' default.")
        expect_at_least(self, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        log_probs = prediction.point_log_probs
        return {
            "features": features_of(prediction, self.normalize),
            "pseudo_label": log_probs.argmax(dim=1),
            "uncertainty": margin(log_probs[:, None]),
        }

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        pool, labeled, labels = view.pool, view.labeled, view.labels
        if labeled is None or labels is None or len(labels) == 0:
            rule = ProbCover(radius=self.radius, normalize=self.normalize, max_points=self.max_points)
            return rule.select(view, size, generator)
        features, centres = pool["features"], labeled["features"]
        expect_finite(features)
        expect_finite(centres)
        first = radius_of(self.radius, 0.95, view, generator)
        covered = _covered(features, centres, centres.new_full((len(centres),), first), view.max_bytes)
        chosen = sub_pool(view.n, self.max_points, 1, generator)
        some = pool if chosen is None else {name: tensor[chosen.to(tensor.device)] for name, tensor in pool.items()}
        radii = _pure_radii(
            labeled,
            labels.to(features.device),
            some,
            view.n / len(some["features"]),
            0.4 + 0.2 * _share(covered, labels),
            self.max_radius,
            view.max_bytes,
        )
        covered = _covered(features, centres, radii, view.max_bytes)
        coverage = balls(view, float(radii.mean()), self.max_points, generator)
        coverage.covered = covered.float()
        everyone = torch.cat([pool["uncertainty"], labeled["uncertainty"]])
        uncertainty = (pool["uncertainty"] - everyone.min()).double()
        shares = torch.tensor([_share(covered, labels), 1.0], dtype=torch.float64)
        now, full = shares.sub(self.centre).mul(self.steepness).sigmoid()
        picked, scores = _greedy(coverage, uncertainty, float(now / full), size, generator)
        return Selection(torch.tensor(picked), torch.tensor(scores), "rank")


def _greedy(
    coverage: Coverage, uncertainty: Float[Tensor, " n"], competence: float, size: int, generator: torch.Generator
) -> tuple[list[int], list[float]]:
    """`size` positions by the mix of uncertainty and degree; a degree only shrinks, so an outdated one bounds it from above."""
    degrees = coverage.gains(torch.arange(len(uncertainty), device=uncertainty.device))
    fresh = torch.ones_like(degrees, dtype=torch.bool)
    open_ = torch.ones_like(fresh)
    picked: list[int] = []
    scores: list[float] = []

    def degrees_now(positions: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        stale = positions[~fresh[positions]]
        if len(stale):
            degrees[stale] = coverage.gains(stale)
            fresh[stale] = True
        return degrees[positions]

    while len(picked) < size:
        highest = lazy_greedy(degrees, degrees_now, lambda _: None, 1, generator)[1]  # none once all is covered
        of_degree = (1 - competence) / highest[0] if highest else 0.0
        by_uncertainty = competence * uncertainty / uncertainty[open_].max().clamp_min(1e-300)

        def ranks_now(positions: Int[Tensor, " m"], u: Tensor = by_uncertainty, w: float = of_degree) -> Tensor:
            return u[positions] + w * degrees_now(positions)

        bounds = (by_uncertainty + of_degree * degrees).masked_fill(~open_, -math.inf)
        chosen, score = lazy_greedy(bounds, ranks_now, lambda _: None, 1, generator, at_least=-1.0)
        coverage.take(chosen[0])
        open_[chosen[0]] = False
        fresh.fill_(False)
        picked += chosen
        scores += score
    return picked, scores


def _share(covered: Tensor, labels: Tensor) -> float:
    """Of all images; those labelled cover themselves."""
    return (int(covered.sum()) + len(labels)) / (len(covered) + len(labels))


def _covered(
    features: Float[Tensor, "n d"], centres: Float[Tensor, "m d"], radii: Float[Tensor, " m"], max_bytes: int
) -> Tensor:
    """Which images are in the ball of a centre: [n]."""
    origin = centres.mean(dim=0)
    centred, squares = centres - origin, radii.square()
    inside = torch.empty(len(features), dtype=torch.bool, device=features.device)
    step = rows_within(max_bytes, 8 * (len(centres) + features.shape[1]))
    with full_precision():
        for start in range(0, len(features), step):
            distances = quick_squared_distances(features[start : start + step] - origin, centred)
            inside[start : start + step] = (distances < squares).any(dim=1)
    return inside


def _pure_radii(
    labeled: Summary,
    labels: Int[Tensor, " m"],
    pool: Summary,
    pool_weight: float,
    purity: float,
    max_radius: float,
    max_bytes: int,
) -> Float[Tensor, " m"]:
    """For each labelled image the radius at which bisection for the purity of its ball ends; an image of the pool counts `pool_weight` times."""
    origin = labeled["features"].mean(dim=0)
    centres = labeled["features"] - origin
    images = torch.cat([centres, pool["features"] - origin])
    predicted = torch.cat([labeled["pseudo_label"], pool["pseudo_label"]])
    weights = torch.cat([images.new_ones(len(centres)), images.new_full((len(pool["features"]),), pool_weight)])
    radii = []
    with full_precision():
        for rows in torch.arange(len(centres), device=labels.device).split(rows_within(max_bytes, 24 * len(images))):
            distances = quick_squared_distances(centres[rows], images)
            distances[torch.arange(len(rows), device=labels.device), rows] = 0
            right = weights * (labels[rows, None] == predicted)
            low = torch.zeros(len(rows), device=images.device)
            high = torch.full_like(low, max_radius)
            for _ in range(_HALVINGS):
                middle = (low + high) / 2
                inside = (distances < middle.square()[:, None]).to(weights)
                pure = (inside * right).sum(dim=1, dtype=torch.float64) >= purity * (inside @ weights).double() - 1e-9
                low, high = torch.where(pure, middle, low), torch.where(pure, high, middle)
            radii.append((low + high) / 2)
    return torch.cat(radii)
