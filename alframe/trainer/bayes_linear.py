"""Bayesian logistic regression on fixed features: a convex fit in place of gradient steps, with its exact-curvature posterior."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

VARIANCES = (4.0, 16.0, 64.0)
INTERCEPT_SDS = (0.05, 0.5, 2.0, 6.0)
CENTRE, WIDTH = 1.2, 0.6  # of the normal hyperprior on log10 of the weights' variance
SPREAD = 1.0
SCALES = torch.logspace(-1, 1.5, 61, dtype=torch.float64)


@dataclass(frozen=True)
class Solution:
    """The mode of a fit and what its posterior needs. Latents l: one for two classes (the log odds of class 1), else c."""

    basis: Float[Tensor, "n r"]
    features: Float[Tensor, "n d"]
    mode: Float[Tensor, "r l"]
    roots: Float[Tensor, "l r r"]
    evidence: float
    variance: float
    intercept_sd: float
    loss: float
    dual: bool
    scale: float = 1.0


def to_logits(c: int) -> Float[Tensor, "l c"]:
    """Latents to logits: the identity, but for two classes, whose log odds are one latent."""
    return torch.tensor([[-0.5, 0.5]], dtype=torch.float64) if c == 2 else torch.eye(c, dtype=torch.float64)


def basis_of(features: Tensor, variance: float, sd: float) -> tuple[Tensor, bool]:
    """Phi [n, r] with Phi Phi^T = variance / d x x^T + sd^2, and whether it is the dual one (r = n <= d)."""
    n, d = features.shape
    if n > d:
        return torch.cat([features * math.sqrt(variance / d), features.new_full((n, 1), sd)], dim=1), False
    kernel = variance / d * features @ features.T + sd**2
    kernel.diagonal().add_(1e-8 * float(kernel.diagonal().mean()) + 1e-10)
    return torch.linalg.cholesky(kernel), True


def newton(basis: Tensor, targets: Tensor, weights: Tensor, map_: Tensor, mode: Tensor) -> Tensor:
    """The mode V of |V|^2 / 2 - sum_i w_i y_i . log softmax(Phi V S), by Newton steps whose systems conjugate gradients solve."""
    w = weights[:, None]

    def objective(v: Tensor) -> float:
        return float(0.5 * v.square().sum() - (w * targets * (basis @ v @ map_).log_softmax(1)).sum())

    value = objective(mode)
    for _ in range(50):
        p = (basis @ mode @ map_).softmax(1)
        gradient = mode - basis.T @ (w * (targets - p)) @ map_.T

        def hessian(step: Tensor, p: Tensor = p) -> Tensor:
            u = basis @ step @ map_
            return step + basis.T @ (w * p * (u - (p * u).sum(1, keepdim=True))) @ map_.T

        step = conjugate_gradients(hessian, gradient)
        size = 1.0
        while (new := objective(mode - size * step)) > value + 1e-12 * abs(value) and size > 1e-4:
            size /= 2
        mode = mode - size * step
        if value - new <= 1e-9 * max(1.0, abs(value)):
            break
        value = new
    return mode


def conjugate_gradients(matrix, right: Tensor, tolerance: float = 1e-4, steps: int = 200) -> Tensor:
    """x with matrix(x) = right up to `tolerance` times its norm."""
    x, residual = torch.zeros_like(right), right.clone()
    direction, square = residual.clone(), float(residual.square().sum())
    stop = tolerance**2 * square
    for _ in range(steps):
        if square <= stop or square == 0:
            break
        product = matrix(direction)
        size = square / float((direction * product).sum())
        x, residual = x + size * direction, residual - size * product
        square, last = float(residual.square().sum()), square
        direction = residual + square / last * direction
    return x


def fit_one(features, targets, weights, variance, sd, start=None) -> Solution:
    c = targets.shape[1]
    map_ = to_logits(c).to(features)
    basis, dual = basis_of(features, variance, sd)
    if start is None:
        start = basis.new_zeros(basis.shape[1], len(map_))
    mode = newton(basis, targets, weights, map_, start)
    log_probs = (basis @ mode @ map_).log_softmax(1)
    q = curvature(log_probs.exp(), weights, map_)
    precision = torch.einsum("nr,nl,ns->lrs", basis, q, basis)
    precision.diagonal(dim1=1, dim2=2).add_(1.0)
    roots = torch.linalg.cholesky(precision)
    likelihood = float((weights[:, None] * targets * log_probs).sum())
    log_determinant = 2 * float(roots.diagonal(dim1=1, dim2=2).log().sum())
    evidence = likelihood - 0.5 * float(mode.square().sum()) - 0.5 * (c - 1) / len(map_) * log_determinant
    return Solution(basis, features, mode, roots, evidence, variance, sd, -likelihood / float(weights.sum()), dual)


def curvature(p, weights, map_):
    """diag of S (diag p - p p^T) S^T per latent, weighted: [n, l]"""
    return weights[:, None] * (p @ (map_.T**2) - (p @ map_.T) ** 2)


def leave_one_out(s: Solution, targets, weights):
    map_ = to_logits(targets.shape[1]).to(targets)
    f = s.basis @ s.mode
    p = (f @ map_).softmax(1)
    g = weights[:, None] * (targets - p) @ map_.T
    q = curvature(p, weights, map_)
    half = torch.linalg.solve_triangular(s.roots, s.basis.T.expand(len(s.roots), -1, -1), upper=False)
    v = half.square().sum(1).T
    left = (1 - q * v).clamp_min(1e-6)
    return f - v * g / left, v / left


def confidence(s: Solution, targets, weights, temper):
    f, v = leave_one_out(s, targets, weights)
    map_ = to_logits(targets.shape[1]).to(targets)
    values = torch.stack([
        (weights[:, None] * targets * (k * f / (1 + k**2 * temper * math.pi / 8 * v).sqrt() @ map_).log_softmax(1)).sum() - 0.5 * (k.log() / SPREAD) ** 2
        for k in SCALES
    ])
    return float(SCALES[values.argmax()])


def back(s: Solution, v: Tensor) -> Tensor:
    """Coordinates [..., r, l] to weights and intercept [..., d + 1, l]"""
    d = s.features.shape[1]
    if s.dual:
        beta = torch.linalg.solve_triangular(s.basis.T, v, upper=True)
        return torch.cat([s.variance / d * s.features.T @ beta, s.intercept_sd**2 * beta.sum(-2, keepdim=True)], dim=-2)
    scale = torch.cat([v.new_full((d,), math.sqrt(s.variance / d)), v.new_full((1,), s.intercept_sd)])
    return scale[:, None] * v


def solve(features, targets, weights=None, temper=0.15, variances=VARIANCES, sds=INTERCEPT_SDS, subset=256):
    features, targets = features.double(), targets.double()
    weights = features.new_ones(len(features)) if weights is None else weights.double()
    best, top = None, -math.inf
    few = slice(0, subset)
    for sd in sds:
        for a in variances:
            s = fit_one(features[few], targets[few], weights[few], a, sd)
            score = s.evidence - 0.5 * ((math.log10(a) - CENTRE) / WIDTH) ** 2
            if score > top:
                best, top = s, score
    if len(features) > subset:
        best = fit_one(features, targets, weights, best.variance, best.intercept_sd)
    from dataclasses import replace
    return replace(best, scale=confidence(best, targets, weights, temper))


def draw(s: Solution, k, temper, generator):
    d, (r, l) = s.features.shape[1], s.mode.shape
    half = k // 2
    z = torch.randn(half, r, l, generator=generator, dtype=torch.float64)
    delta = torch.linalg.solve_triangular(s.roots.transpose(1, 2)[None], z.permute(0, 2, 1)[..., None], upper=True)[..., 0].permute(0, 2, 1)
    if s.dual:
        w = torch.randn(half, d + 1, l, generator=generator, dtype=torch.float64)
        w[:, :d] *= math.sqrt(s.variance / d)
        w[:, d] *= s.intercept_sd
        v = torch.linalg.solve_triangular(s.basis, s.features @ w[:, :d] + w[:, d:], upper=False)
        spread = w + back(s, delta - v)
    else:
        spread = back(s, delta)
    spread = math.sqrt(temper) * torch.stack([spread, -spread], dim=1).flatten(0, 1)
    return s.scale * (back(s, s.mode) + spread)


def variance(s: Solution, weights, targets):
    """exact latents' variance at rows x [m, d] for l latents: (prior, Q): prior(x) - |Q^T x~|^2"""
    map_ = to_logits(targets.shape[1]).to(targets)
    q = curvature((s.basis @ s.mode @ map_).softmax(1), weights, map_).T.sqrt()
    d = s.features.shape[1]
    kernel = s.basis @ s.basis.T
    B = torch.eye(len(kernel), dtype=kernel.dtype) + q[:, :, None] * kernel * q[:, None, :]
    L = torch.linalg.cholesky(B)
    x = torch.cat([s.features * s.variance / d, torch.full((len(s.features), 1), s.intercept_sd**2, dtype=kernel.dtype)], 1)
    return torch.linalg.solve_triangular(L, q[:, :, None] * x, upper=False).transpose(1, 2)  # [l, d+1, n]
