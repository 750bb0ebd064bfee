"""Pick the images that are most likely defects: find many of them while few are labelled."""

from dataclasses import dataclass

import torch

from alframe.strategy.base import Strategy
from alframe.strategy.top_score import highest
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class MostLikely(Strategy):
    """The q images with the highest probability of a defect, in [0, 1]: the posterior mean, summed over the defect classes.

    If nobody said which classes are defects, it is the class with the fewest labels so far, the last of equals.
    Ties are broken at random. Source: certainty sampling of the rare class, as in Attenberg & Provost 2010 (KDD).
    """

    def summarize(self, prediction: Prediction) -> Summary:
        return {"probs": prediction.mean_log_probs.exp()}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        defects = view.defects or (rarest(view.counts, view.n_classes),)
        scores = view.pool["probs"][:, list(defects)].sum(dim=1)
        picked = highest(scores, size, generator)
        return Selection(picked.cpu(), scores[picked].cpu(), self.name, pool_scores=scores.cpu())


def rarest(counts: tuple[int, ...], n_classes: int) -> int:
    """The class with the fewest labels, the highest number of equals; the last class without counts."""
    return min(range(n_classes), key=lambda c: (counts[c] if counts else 0, -c))
