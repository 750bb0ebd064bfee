"""Fisher information of the last layer, and the effect of each image on tr[M⁻¹ I] as images are added to M."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import rows_within
from alframe.errors import StrategyError, expect
from alframe.types import Summary

_CACHE_BYTES = 1 << 22  # a tile that stays in a core's cache while it is made float64: a third of the time
_INVERT_EVERY = 50  # picks: low-rank updates of an inverse drift
_LEAST = 1e-15  # keeps a division finite where rounding has made an image's own information all there is
_SINGULAR = 1e-7  # of the largest pivot of the Cholesky factor, the root of what float64 can tell from 0
_LOST = 1e-8  # a term that has shrunk to this share has lost half its digits to rounding

Rows = slice | Tensor
Roots = Callable[[Summary, Rows], Tensor]
"""Fisher information of images in factors: V V^T with V = root ⊗ h; float64 roots [b, c, c - 1] (full) or [b, 1, 1] (binary)."""


def binary_roots(summary: Summary, rows: Rows) -> Float[Tensor, "b 1 1"]:
    return summary["weight"][rows].double().sqrt()[:, None, None]


def full_roots(summary: Summary, rows: Rows) -> Float[Tensor, "b c r"]:
    """Cholesky factors of diag p - p p^T, in closed form; with the most likely class last nothing cancels or divides by 0.

    Column i, with s_i the sum of p after i: sqrt(p_i s_i / s_{i-1}) at i, and -p_j sqrt(p_i / (s_{i-1} s_i)) at each j > i.
    """
    probs, order = summary["probs"][rows].double().sort(dim=1)
    sums = probs.flip(1).cumsum(dim=1).flip(1)  # s_{i-1}
    p, before, after = probs[:, :-1], sums[:, :-1], sums[:, 1:]
    roots = (-probs[:, :, None] * (p / (before * after)).sqrt()[:, None, :]).tril(-1)
    roots.diagonal(dim1=1, dim2=2).copy_((p * after / before).sqrt())
    return torch.empty_like(roots).scatter_(1, order[:, :, None].expand_as(roots), roots)


def _times(a: Float[Tensor, "b r s"], b: Float[Tensor, "*any s t"]) -> Float[Tensor, "b r t"]:
    return a * b if a.shape[1:] == b.shape[-2:] == (1, 1) else a @ b  # a million products of 1 x 1 are slow


def fisher_information(summary: Summary, roots: Roots, width: int, max_bytes: int) -> Float[Tensor, "w w"]:
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


class Design:
    """Fisher information M of all that is labelled or picked, and the effect of each of n images on tr[M⁻¹ I].

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
        """Recompute the terms that have lost precision."""
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
