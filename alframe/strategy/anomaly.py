"""Pick the images that are least like any other, by features that no training changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from alframe.engine.neighbours import distinct_neighbour_distances
from alframe.strategy.base import Strategy, expect_at_least
from alframe.strategy.top_score import highest
from alframe.types import PoolView, Prediction, Selection, Summary

Distance = Literal["cosine", "euclidean"]
Level = Literal["image", "patch"]


@dataclass(frozen=True)
class Anomaly(Strategy):
    """The q images with the largest mean distance to their `k` nearest distinct neighbours, in the pool or labelled.

    The score is that mean: over sqrt(2 - 2 cos), in [0, 2], or over the Euclidean distance. A neighbour at distance 0 is a
    copy: it is passed over, and copies count as one image, so that they cannot hide each other. An image without a distinct
    neighbour scores 0. It needs no label and no network. Ties are broken at random.

    `level` "patch": the score is that of the image's patches instead, `PoolView.patch_scores`; `k` and `distance` have no effect.
    Source: Ramaswamy, Rastogi & Shim 2000 (SIGMOD); the mean of the k distances, Angiulli & Pizzuti 2002 (PKDD).
    Differs: copies are passed over.
    """

    k: int = 5
    distance: Distance = "cosine"
    level: Level = "image"

    added_options: ClassVar[Mapping[str, Any]] = {"level": "image"}
    needs: ClassVar[frozenset[str]] = frozenset({"fixed"})
    needs_pool_pass: ClassVar[bool] = False
    needs_network: ClassVar[bool] = False

    def __post_init__(self) -> None:
        expect_at_least(self, k=1)
        if self.level == "patch":
            object.__setattr__(self, "needs", frozenset({"patch"}))

    def summarize(self, prediction: Prediction) -> Summary:
        return {}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        if self.level == "patch":
            assert view.patch_scores is not None, "it is declared in needs"
            return self._highest(view.patch_scores, size, generator)
        assert view.fixed is not None, "it is declared in needs"
        points = view.fixed if view.fixed_labeled is None else torch.cat([view.fixed, view.fixed_labeled])
        if self.distance == "cosine":
            points = normalize(points)
        distances = distinct_neighbour_distances(points, view.n, self.k, view.max_bytes)
        found = distances.isfinite()
        scores = distances.where(found, 0).sum(dim=1) / found.sum(dim=1).clamp_min(1)
        return self._highest(scores, size, generator)

    def _highest(self, scores: Float[Tensor, " n"], size: int, generator: torch.Generator) -> Selection:
        picked = highest(scores, size, generator)
        return Selection(picked.cpu(), scores[picked].cpu(), self.name, pool_scores=scores.cpu())
