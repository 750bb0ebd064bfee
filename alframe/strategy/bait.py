"""Ask what tells the last layer most about the pool: smallest trace of inverse Fisher information times the pool's."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import expect_finite, rows_within
from alframe.engine.ties import fill_at_random, highest_of_equals, random_order
from alframe.errors import StrategyError, expect
from alframe.strategy.base import Strategy
from alframe.types import Prediction, Selection, Summary, Views

_CACHE_BYTES = 1 << 22  # a tile that stays in a core's cache while it is made float64: a third of the time
_INVERT_EVERY = 50  # picks: low-rank updates of an inverse drift
_LEAST = 1e-15  # keeps a division finite where rounding has made an image's own information all there is
_SINGULAR = 1e-7  # of the largest pivot of the Cholesky factor, the root of what float64 can tell from 0
_LOST = 1e-8  # a term that has shrunk to this share has lost half its digits to rounding


@dataclass(frozen=True)
class Bait(Strategy):
    """Greedy minimum of tr[M⁻¹ I] over the batch S: M = regularization · 1 + sum over labelled and S of V V^T, I = mean over the pool of V V^T.

    V V^T is an image's Fisher information for the last layer's weights (no bias). `fisher="binary"`: p̂ (1 - p̂) h h^T, d x d and of
    rank 1, as if the question were whether the predicted class, of probability p̂, is right. `fisher="full"`: (diag p - p p^T) ⊗ h h^T,
    (c d) x (c d) and of rank c - 1. Forward: `oversample` times q images one by one, each the one that lowers the trace most, which
    is its score; backward: drop again and again the one whose loss raises it least, until q are left. When no image lowers the trace
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

    def select(self, views: Views, size: int, generator: torch.Generator) -> Selection:
        roots = _full_roots if self.fisher == "full" else _binary_roots
        order = random_order(views.n, generator, views.pool["features"].device)
        design = self._start(views, roots)
        picked: list[int] = []
        scores: list[float] = []
        while len(picked) < min(views.n, max(size, math.ceil(self.oversample * size))):
            gains = torch.where(design.inside, -1.0, design.changes(1))
            best = highest_of_equals(gains, order)
            if not float(gains[best]) > 0:
                break
            picked.append(best)
            scores.append(float(gains[best]))
            design.update(best, 1)
        kept = _prune(design, picked, size, order)
        positions = [picked[i] for i in kept]
        positions = fill_at_random(positions, views.n, size, generator)
        values = [scores[i] for i in kept] + [0.0] * (size - len(kept))
        return Selection(torch.tensor(positions), torch.tensor(values), "trace_decrease")

    def _start(self, views: Views, roots: "Roots") -> "_Design":
        """The design before the first pick: what is labelled, and the pool to be told about."""
        features = views.pool["features"]
        expect_finite(features)
        if views.labeled:
            expect_finite(views.labeled["features"])
        n_blocks = 1
        if self.fisher == "full":
            n_blocks = views.pool["probs"].shape[1]
            _expect_room(n_blocks, features.shape[1], views)
        width = n_blocks * features.shape[1]
        target = _fisher(views.pool, roots, width, views.max_bytes) / views.n
        information = self.regularization * torch.eye(width, dtype=torch.float64, device=features.device)
        if views.labeled:
            information += _fisher(views.labeled, roots, width, views.max_bytes)
        return _Design(views.pool, roots, information, target, views.max_bytes)


Rows = slice | Tensor
Roots = Callable[[Summary, Rows], Tensor]
"""Fisher information of images in factors: V V^T with V = root ⊗ h; float64 roots [b, c, c - 1] (full) or [b, 1, 1] (binary)."""


def _binary_roots(summary: Summary, rows: Rows) -> Float[Tensor, "b 1 1"]:
    return summary["weight"][rows].double().sqrt()[:, None, None]


def _full_roots(summary: Summary, rows: Rows) -> Float[Tensor, "b c r"]:
    """Cholesky factors of diag p - p p^T, in closed form; with the likeliest class last nothing cancels or divides by 0.

    Column i, with s_i the sum of p after i: sqrt(p_i s_i / s_{i-1}) at i, and -p_j sqrt(p_i / (s_{i-1} s_i)) at each j > i.
    """
    probs, order = summary["probs"][rows].double().sort(dim=1)
    sums = probs.flip(1).cumsum(dim=1).flip(1)  # s_{i-1}
    p, before, after = probs[:, :-1], sums[:, :-1], sums[:, 1:]
    roots = (-probs[:, :, None] * (p / (before * after)).sqrt()[:, None, :]).tril(-1)
    roots.diagonal(dim1=1, dim2=2).copy_((p * after / before).sqrt())
    return torch.empty_like(roots).scatter_(1, order[:, :, None].expand_as(roots), roots)


def _expect_room(c: int, d: int, views: Views) -> None:
    needed = 8 * (8 * (c * d) ** 2 + views.n * (2 * c * c + 8))
    expect(
        needed <= views.max_bytes,
        f"Expected the full Fisher information within query.max_bytes = {views.max_bytes}, got about {needed} bytes for {c} classes "
        f"by {d} features and {views.n} images; set fisher to binary, look at fewer images (strategy=candidates), or raise "
        "query.max_bytes.",
        StrategyError,
    )


def _times(a: Float[Tensor, "b r s"], b: Float[Tensor, "*any s t"]) -> Float[Tensor, "b r t"]:
    return a * b if a.shape[1:] == b.shape[-2:] == (1, 1) else a @ b  # a million products of 1 x 1 are slow


def _fisher(summary: Summary, roots: Roots, width: int, max_bytes: int) -> Float[Tensor, "w w"]:
    """Sum of V V^T over the images of a summary."""
    features = summary["features"]
    n, d = features.shape
    total = features.new_zeros(width // d, d, width, dtype=torch.float64)
    rows = rows_within(max_bytes, 8 * (2 * width + 2 * d + 4 * len(total) ** 2))
    for start in range(0, n, rows):
        here = slice(start, start + rows)
        root, points = roots(summary, here), features[here].double()
        for block, weights in zip(total, _times(root, root.mT).unbind(dim=1), strict=True):
            block += points.T @ (weights[:, :, None] * points[:, None, :]).flatten(1)
    return total.reshape(width, width)


class _Design:
    """Fisher information M of all that is labelled or picked, and what each of n images would do to tr[M⁻¹ I].

    Holds V^T M⁻¹ V and V^T M⁻¹ I M⁻¹ V of each image (r x r, float64) and updates them by inner products when M changes by V V^T:
    (M + V V^T)⁻¹ = M⁻¹ - U k U^T with U = M⁻¹ V, k = (1 + V^T U)⁻¹. `inside` says which images are in M.
    """

    def __init__(self, summary: Summary, roots: Roots, information: Tensor, target: Tensor, max_bytes: int) -> None:
        self.summary, self.roots, self.max_bytes = summary, roots, max_bytes
        self.features = summary["features"]
        self.information, self.target = information, target
        n, d = self.features.shape
        self.blocks = len(information) // d
        self.inside = torch.zeros(n, dtype=torch.bool, device=self.features.device)
        self.rank = roots(summary, slice(0, 1)).shape[2]
        self.leverage = self.features.new_empty(n, self.rank, self.rank, dtype=torch.float64)
        self.benefit = torch.empty_like(self.leverage)
        self._rows = rows_within(min(max_bytes, _CACHE_BYTES), 8 * (d * (self.blocks + 1) + 12 * self.blocks**2))
        self._invert()
        self._evaluate(torch.arange(n, device=self.features.device))
        self._peak = self._size()

    def changes(self, sign: int) -> Float[Tensor, " n"]:
        """How far the trace would fall if each image were added (`sign` 1), or rise if it were dropped (-1)."""
        if self.rank == 1:
            return (self.benefit / (1 + sign * self.leverage).clamp_min(_LEAST)).flatten()
        changes = torch.empty_like(self._peak)
        one = (1 + _LEAST) * torch.eye(self.rank, dtype=torch.float64, device=changes.device)
        for start in range(0, len(changes), self._rows):
            here = slice(start, start + self._rows)
            solved = torch.linalg.solve(one + sign * self.leverage[here], self.benefit[here])
            changes[here] = solved.diagonal(dim1=1, dim2=2).sum(dim=1)
        return changes

    def update(self, position: int, sign: int) -> None:
        """Add an image to M (`sign` 1), or drop it (-1)."""
        d = self.features.shape[1]
        at = slice(position, position + 1)
        root, point = self.roots(self.summary, at)[0], self.features[position].double()
        v = (root[:, None, :] * point[:, None]).reshape(-1, self.rank)
        u = self.inverse @ v
        z = self.inverse @ (self.target @ u)
        one = (1 + _LEAST) * torch.eye(self.rank, dtype=torch.float64, device=u.device)
        k = sign * torch.linalg.inv(one + sign * v.T @ u)
        curvature = k @ (u.T @ self.target @ u) @ k
        both = torch.stack([u, z]).reshape(2, self.blocks, d, self.rank).permute(2, 0, 1, 3).reshape(d, -1)
        for start in range(0, len(self.features), self._rows):
            here = slice(start, start + self._rows)
            products = (self.features[here].double() @ both).unflatten(1, (2, self.blocks, self.rank))
            root = self.roots(self.summary, here).mT
            a, b = _times(root, products[:, 0]), _times(root, products[:, 1])
            ak = _times(a, k)
            cross = _times(ak, b.mT)
            self.leverage[here] -= _times(ak, a.mT)
            self.benefit[here] -= cross + cross.mT - _times(_times(a, curvature), a.mT)
        self.information += sign * v @ v.T
        self.inverse -= u @ k @ u.T
        self.inside[position] = sign > 0
        self._n_updates += 1
        self._keep_digits()

    def _keep_digits(self) -> None:
        """Compute anew what rounding has worn down."""
        self._peak = torch.maximum(self._peak, self._size())
        worn = ((self._size() < _LOST * self._peak) & ~self.inside).nonzero().squeeze(1)
        if len(worn) or self._n_updates >= _INVERT_EVERY:
            self._invert()
        self._evaluate(worn)
        self._peak[worn] = self._size()[worn]

    def _size(self) -> Float[Tensor, " n"]:
        return self.benefit.diagonal(dim1=1, dim2=2).sum(dim=1)

    def _invert(self) -> None:
        factor, failed = torch.linalg.cholesky_ex(self.information)
        pivots = factor.diagonal()
        expect(
            not bool(failed) and bool(pivots.min() > _SINGULAR * pivots.max()),
            "Expected Fisher information that can be inverted in float64, got a matrix that is singular up to rounding; raise "
            "the regularization.",
            StrategyError,
        )
        self.inverse = torch.cholesky_inverse(factor)
        self._n_updates = 0

    def _evaluate(self, positions: Int[Tensor, " m"]) -> None:
        """Leverage and benefit of some images from the matrices."""
        if not len(positions):
            return
        d = self.features.shape[1]
        sandwich = self.inverse @ self.target @ self.inverse
        for here in positions.split(self._rows):
            points, root = self.features[here].double(), self.roots(self.summary, here)
            for matrix, out in ((self.inverse, self.leverage), (sandwich, self.benefit)):
                strips = matrix.reshape(self.blocks, d, -1).unbind(dim=0)
                rows = [torch.einsum("bzd,bd->bz", (points @ strip).unflatten(1, (-1, d)), points) for strip in strips]
                out[here] = _times(_times(root.mT, torch.stack(rows, dim=1)), root)


def _prune(design: _Design, picked: list[int], size: int, order: Tensor) -> list[int]:
    """Which of the picks (places in `picked`, in order) remain when those that matter least are dropped one by one until `size` are left."""
    if len(picked) <= size:
        return list(range(len(picked)))
    rows = torch.tensor(picked, device=order.device)
    summary = {name: tensor[rows] for name, tensor in design.summary.items()}
    few = _Design(summary, design.roots, design.information, design.target, design.max_bytes)
    few.inside[:] = True
    for _ in range(len(picked) - size):
        losses = torch.where(few.inside, few.changes(-1), math.inf)
        few.update(highest_of_equals(-losses, order[rows]), -1)
    return few.inside.nonzero().squeeze(1).tolist()
