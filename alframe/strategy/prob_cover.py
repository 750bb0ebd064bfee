"""Cover the pool with balls: greedily pick the image whose ball has the most uncovered images."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from alframe.engine.coverage import Coverage, pure_radius
from alframe.engine.nearest_centre import NearestCentre, farthest
from alframe.errors import expect
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class ProbCover(Strategy):
    """Greedy maximisation of |{i in the pool: |h_i - h_s| < radius for some s labelled or picked}|.

    The score is the number of images that the pick covered first. `radius: null` is the published rule, recomputed in
    the features of each query: the largest radius at which a share `purity` of the balls hold one pseudo-label only, with k-means of as
    many clusters as there are classes for pseudo-labels. A number belongs to one feature space; copy none to another.
    Once all is covered the rest are picked farthest first (as `core_set`), with score 0. Equal balls go to any one of the equals.
    Works without labels. Above `max_points` images, covering is estimated on that many, drawn at random.
    Source: Yehuda et al. 2022, arXiv:2205.11320. Differs: no graph is stored; balls are counted again for the images that may
    still win; the radius is a quantile over at most 2,000 balls and not a search on a grid.
    """

    radius: float | None = None
    purity: float = 0.95
    normalize: bool = True
    max_points: int = 5000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect(
            self.radius is None or self.radius > 0,
            f"Expected a radius above 0, got {self.radius}; null computes it from the purity of the balls.",
        )
        expect(0 < self.purity <= 1, f"Expected a purity above 0 and up to 1, got {self.purity}; 0.95 is published.")
        expect_at_least(self, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": features_of(prediction, self.normalize)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        features = view.pool["features"]
        radius = self.radius
        if radius is None:
            radius = pure_radius(features, view.n_classes, self.purity, generator, view.max_bytes)
        coverage = Coverage(
            features, radius, generator, ball=True, max_points=self.max_points, max_bytes=view.max_bytes
        )
        if view.labeled is not None:
            coverage.cover(view.labeled["features"])
        picked, gains = coverage.greedy(size, generator)
        scores = torch.tensor(gains + [0.0] * (size - len(gains)))
        if len(picked) < size:
            picked = _farthest_first(picked, view, size)
        return Selection(torch.tensor(picked), scores, "newly_covered")


def _farthest_first(picked: list[int], view: PoolView, size: int) -> list[int]:
    """`picked`, and up to `size` the images farthest from all that is labelled or picked, one after another."""
    nearest = NearestCentre([view.pool["features"]], view.max_bytes)
    if view.labeled is not None and len(view.labeled["features"]):
        nearest.cover([view.labeled["features"]])
    if picked:
        nearest.add(picked, torch.tensor(picked, device=nearest.bounds.device), torch.full((len(picked),), -1.0))
        nearest.refresh()
    while len(nearest.centres) < size:
        farthest(nearest, size - len(nearest.centres))
    return nearest.centres
