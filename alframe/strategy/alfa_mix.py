"""Mix each image's features with the mean of each class: images whose prediction changes have something to teach the network."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, full_precision, rows_within
from alframe.engine.k_means import representatives
from alframe.errors import expect
from alframe.strategy.base import Strategy, expect_at_least
from alframe.types import PoolView, Prediction, Selection, Summary

_CHUNK_BYTES = 1 << 23  # larger chunks leave the cache and are no faster


@dataclass(frozen=True)
class AlfaMix(Strategy):
    """Images whose prediction ŷ changes when their features z are moved a little towards the mean z* of some labelled class.

    z is mixed feature by feature, α z* + (1 - α) z, with the α of length at most ε that raises the loss of ŷ most,
    α = ε |z* - z| ∇ / (|∇| (z* - z)), where ∇ is the gradient of that loss in z. The candidates are those for which
    argmax head(α z* + (1 - α) z) != ŷ for any class with a label. ε is `alpha_cap` r / √d for r = 1, 2, ... until there are more
    than q candidates or `alpha_cap` r has reached 1. k-means with q clusters on the candidates (of unit length with `normalize`)
    gives the q nearest to its centres.

    The score is instability: 1 - (r - 1) / R for a change at step r of the R that there may be, 0 for no change as far as ε went.
    With fewer than q candidates all are taken, and the rest at random. Without labels every image is a candidate. z, ŷ and ∇ are
    those of the deterministic network. More than `max_points` candidates are thinned to that many before they are clustered.
    Source: Parvaneh et al. 2022 (CVPR), arXiv:2203.07034. Differs: α (z* - z) is computed as ε |z* - z| ∇ / |∇| where z* != z, and
    0 where z* = z, so that nothing is divided by a difference near 0; the direction of ∇ is exact for confident predictions too.
    """

    alpha_cap: float = 0.2
    normalize: bool = True
    max_points: int = 50_000

    needs: ClassVar[frozenset[str]] = frozenset({"labeled", "head"})

    def __post_init__(self) -> None:
        expect(
            0 < self.alpha_cap <= 1,
            f"Expected alpha_cap above 0 and at most 1, got {self.alpha_cap}; 0.2 is the authors' choice.",
        )
        expect_at_least(self, max_points=1)

    def summarize(self, prediction: Prediction) -> Summary:
        return {"features": prediction.features}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        assert view.labeled is not None
        assert view.labels is not None
        assert view.head is not None
        features, labeled = view.pool["features"], view.labeled["features"]
        expect_finite(features)
        expect_finite(labeled)
        scores = features.new_zeros(view.n)
        candidates = torch.arange(view.n, device=features.device)
        if len(labeled):
            labels = view.labels.to(features.device)
            means = torch.stack([labeled[labels == c].double().mean(dim=0).float() for c in labels.unique()])
            scores = self._instability(features, means, view.head, size, view.max_bytes)
            candidates = scores.nonzero().squeeze(1)
        if len(candidates) <= size:
            others = (scores == 0).nonzero().squeeze(1)
            drawn = torch.randperm(len(others), generator=generator)[: size - len(candidates)].to(others.device)
            picked = torch.cat([candidates[scores[candidates].argsort(descending=True, stable=True)], others[drawn]])
        else:
            picked = representatives(view, candidates, size, generator, self.normalize, self.max_points)
        return Selection(picked.cpu(), scores[picked].cpu(), "instability", pool_scores=scores.cpu())

    def _instability(
        self,
        features: Float[Tensor, "n d"],
        anchors: Float[Tensor, "m d"],
        head: Callable[[Tensor], Tensor],
        size: int,
        max_bytes: int,
    ) -> Float[Tensor, " n"]:
        """Above 0 for candidates, the higher the sooner ŷ changes as ε grows."""
        d = features.shape[1]
        rows = rows_within(min(max_bytes, _CHUNK_BYTES), 32 * d)
        scores = features.new_zeros(len(features))
        steps = math.ceil(1 / self.alpha_cap)
        for r in range(steps):
            stable = (scores == 0).nonzero().squeeze(1)  # a candidate stays one: only the others are re-evaluated
            if len(features) - len(stable) > size or not len(stable):
                break
            with full_precision():
                for chunk in stable.split(rows):
                    changed = _changed(features[chunk], anchors, head, self.alpha_cap * (r + 1) / math.sqrt(d))
                    scores[chunk] = changed.to(scores) * (1 - r / steps)
        return scores


def _changed(
    z: Float[Tensor, "b d"], anchors: Float[Tensor, "m d"], head: Callable[[Tensor], Tensor], epsilon: float
) -> Bool[Tensor, " b"]:
    """Whether mixing with any of the anchors changes the prediction."""
    label, direction = _steepest(z, head)
    changed = torch.zeros_like(label, dtype=torch.bool)
    with torch.no_grad():
        for anchor in anchors:
            difference = anchor - z
            step = epsilon * torch.linalg.vector_norm(difference, dim=1, keepdim=True) * direction
            mixed = step.masked_fill_(difference == 0, 0).add_(z)
            changed |= head(mixed).to(label.device).argmax(dim=1) != label
    return changed


def _steepest(
    z: Float[Tensor, "b d"], head: Callable[[Tensor], Tensor]
) -> tuple[Int[Tensor, " b"], Float[Tensor, "b d"]]:
    """ŷ, and the unit vector along which its cross-entropy grows fastest (0 where it does not).

    The gradient in the logits is p - e_ŷ. Over 1 - p_ŷ it is the softmax of the other classes minus e_ŷ: the same direction, which
    does not round to 0 for a confident prediction.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        logits = head(z.clone())  # a head may work in place
        label = logits.detach().argmax(dim=1, keepdim=True)
        outward = logits.detach().float().scatter(1, label, -math.inf).softmax(dim=1).scatter(1, label, -1.0)
        (gradient,) = torch.autograd.grad(logits, z, outward.to(logits.dtype))
    length = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    return label.squeeze(1).to(z.device), gradient / length.masked_fill(length == 0, 1)
