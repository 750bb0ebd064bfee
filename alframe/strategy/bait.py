"""Images that are most informative about the last layer: smallest trace of inverse Fisher information times the pool's."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from alframe.engine.distances import expect_finite
from alframe.engine.fisher import Design, Roots, binary_roots, fisher_information, full_roots
from alframe.engine.ties import fill_at_random, highest_of_equals, random_order
from alframe.errors import StrategyError, expect
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Bait(Strategy):
    """Greedy minimum of tr[M⁻¹ I] over the batch S: M = regularization · 1 + sum over labelled and S of V V^T, I = mean over the pool of V V^T.

    V V^T is an image's Fisher information for the last layer's weights (no bias). `fisher="binary"`: p̂ (1 - p̂) h h^T, d x d and of
    rank 1, as if the question were whether the predicted class, of probability p̂, is right. `fisher="full"`: (diag p - p p^T) ⊗ h h^T,
    (c d) x (c d) and of rank c - 1. Forward: `oversample` times q images one by one, each the one that lowers the trace most, which
    is its score; backward: repeatedly drop the one whose loss raises it least, until q are left. When no image lowers the trace
    any more, the rest are drawn at random, with score 0. Deterministic: ties go by the generator.
    Raises `StrategyError` when the full form does not fit in `query.max_bytes`.
    Source: Ash et al. 2021, arXiv:2106.09675; the binary form is of Huseljic et al. 2024, arXiv:2404.08981. Differs: exact rank-1 form
    of the latter; sums, where the authors' code weighs labelled and picked images differently; I over the unlabelled images; in float64.
    """

    fisher: Literal["binary", "full"] = "binary"
    regularization: float = 1.0
    oversample: float = 2.0

    needs: ClassVar[frozenset[str]] = frozenset({"labeled"})

    def __post_init__(self) -> None:
        expect(
            1e-12 <= self.regularization < math.inf,
            f"Expected a regularization of at least 1e-12, got {self.regularization}; without it the information has no inverse.",
        )
        expect(
            self.oversample >= 1,
            f"Expected oversample of at least 1, got {self.oversample}; 1 leaves the backward steps out.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        probs = prediction.point_log_probs.exp()
        if self.fisher == "full":
            return {"features": prediction.features, "probs": probs}
        # 1 - p̂ as the sum of the others: it would round to 0 for a confident image.
        wrong = probs.scatter(1, probs.argmax(dim=1, keepdim=True), 0).sum(dim=1).clamp_max(1)
        return {"features": prediction.features, "weight": wrong * (1 - wrong)}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        roots = full_roots if self.fisher == "full" else binary_roots
        order = random_order(view.n, generator, view.pool["features"].device)
        design = self._start(view, roots)
        picked: list[int] = []
        scores: list[float] = []
        while len(picked) < min(view.n, max(size, math.ceil(self.oversample * size))):
            gains = torch.where(design.inside, -1.0, design.changes(1))
            best = highest_of_equals(gains, order)
            if not float(gains[best]) > 0:
                break
            picked.append(best)
            scores.append(float(gains[best]))
            design.update(best, 1)
        kept = _prune(design, picked, size, order)
        positions = [picked[i] for i in kept]
        positions = fill_at_random(positions, view.n, size, generator)
        values = [scores[i] for i in kept] + [0.0] * (size - len(kept))
        return Selection(torch.tensor(positions), torch.tensor(values), "trace_decrease")

    def _start(self, view: PoolView, roots: Roots) -> Design:
        """The design before the first pick: what is labelled, and the pool as the target."""
        features = view.pool["features"]
        expect_finite(features)
        if view.labeled:
            expect_finite(view.labeled["features"])
        n_blocks = 1
        if self.fisher == "full":
            n_blocks = view.pool["probs"].shape[1]
            c, d = n_blocks, features.shape[1]
            needed = 8 * (8 * (c * d) ** 2 + view.n * (2 * c * c + 8))
            expect(
                needed <= view.max_bytes,
                f"Expected the full Fisher information within query.max_bytes = {view.max_bytes}, got about {needed} bytes for {c} "
                f"classes by {d} features and {view.n} images; set fisher to binary, use fewer images (strategy=candidates), or "
                "raise query.max_bytes.",
                StrategyError,
            )
        width = n_blocks * features.shape[1]
        target = fisher_information(view.pool, roots, width, view.max_bytes) / view.n
        information = self.regularization * torch.eye(width, dtype=torch.float64, device=features.device)
        if view.labeled:
            information += fisher_information(view.labeled, roots, width, view.max_bytes)
        return Design(view.pool, roots, information, target, view.max_bytes)


def _prune(design: Design, picked: list[int], size: int, order: Tensor) -> list[int]:
    """The picks (positions in `picked`, in order) that remain after dropping the least important ones until `size` are left."""
    if len(picked) <= size:
        return list(range(len(picked)))
    rows = torch.tensor(picked, device=order.device)
    summary = {name: tensor[rows] for name, tensor in design.summary.items()}
    few = Design(summary, design.roots, design.information, design.target, design.max_bytes)
    few.inside[:] = True
    for _ in range(len(picked) - size):
        losses = torch.where(few.inside, few.changes(-1), math.inf)
        few.update(highest_of_equals(-losses, order[rows]), -1)
    return few.inside.nonzero().squeeze(1).tolist()
