"""Uncertain and diverse: entropy-weighted k-means, then the image nearest to each centre."""

from dataclasses import dataclass

import torch

from alframe.engine.k_means import k_means
from alframe.errors import expect
from alframe.strategy.base import Strategy, expect_at_least, features_of
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Clue(Strategy):
    """The image nearest to each centre of a weighted k-means on features, with q clusters and the entropy H[p_T(y|x)] as weight.

    p_T is the deterministic network's softmax at `temperature` T: p_T ∝ p^(1/T); smaller counts uncertain images more. Larger clusters
    are asked first. Where fewer than q uncertain images differ, the second nearest of each cluster follow, then the third. The score is minus
    the distance to the centre, and `entropy` all zero is as no weights. `normalize` puts features on the unit sphere first.
    Source: Prabhu et al. 2021, arXiv:2010.08666. Differs: one k-means++ start; nearest within the cluster, so that no image is
    nearest to two centres.
    """

    temperature: float = 1.0
    normalize: bool = False
    max_iterations: int = 25

    def __post_init__(self) -> None:
        expect(
            self.temperature > 0,
            f"Expected temperature above 0, got {self.temperature}; 1 takes the probabilities as they are.",
        )
        expect_at_least(self, max_iterations=1)

    def summarize(self, prediction: Prediction) -> Summary:
        probs = (prediction.point_log_probs / self.temperature).softmax(dim=-1)
        features = features_of(prediction, self.normalize)
        return {"features": features, "entropy": torch.special.entr(probs).sum(dim=-1)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        clusters = k_means(
            view.pool["features"],
            size,
            generator,
            weights=view.pool["entropy"],
            max_iterations=self.max_iterations,
            max_bytes=view.max_bytes,
        )
        chosen = clusters.representatives(size)
        return Selection(chosen.cpu(), -clusters.distances[chosen].sqrt().cpu(), "minus_distance_to_centre")
