"""Bayesian logistic regression: the mode, the evidence, leave-one-out, draws and exact variances of a linear classifier.

Logits of features x [d] are W x + b with independent priors W ~ N(0, variance / d) and b ~ N(0, intercept_sd^2) for each
latent l: one latent, the log odds, for two classes, else one per class. n labels · r = min(n, d + 1) coordinates of the fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

VARIANCES, INTERCEPT_SDS = (4.0, 16.0, 64.0), (0.05, 0.5, 2.0, 6.0)
CENTRE, WIDTH = 1.2, 0.6  # mean and deviation of log10(variance) a priori
CONFIDENCES = torch.logspace(-1, 1.5, 61, dtype=torch.float64)
EVIDENCE_LABELS = 256  # the variances are properties of the features: this many labels are enough to find them
TEMPER = 0.15  # the share of the posterior covariance that predictions use


@dataclass(frozen=True)
class LinearPosterior:
    """A Gaussian over the weights of a linear classifier, in float64.

    Latents of the labelled images are `basis` V; V has the mode `mode` and, per latent, the precision root root^T.
    `confidence` multiplies all logits. `loss`: mean negative log-likelihood of the labels in nats, at the mode.
    """

    features: Float[Tensor, "n d"]
    basis: Float[Tensor, "n r"]
    mode: Float[Tensor, "r l"]
    roots: Float[Tensor, "l r r"]
    curvature: Float[Tensor, "n l"]
    n_classes: int
    variance: float
    intercept_sd: float
    evidence: float
    loss: float
    confidence: float = 1.0

    @property
    def weights(self) -> Float[Tensor, "d1 c"]:
        """Weights and, in the last row, intercepts of the logits at the mode."""
        return self.confidence * self._back(self.mode) @ to_logits(self.n_classes, self.mode)

    def draw(self, k: int, generator: torch.Generator) -> Float[Tensor, "k d1 c"]:
        """`k` draws of `weights` in antithetic pairs (an odd one is the mode), with `TEMPER` of the posterior's covariance.

        The part of the prior that the labels do not reach is drawn too (Matheron's rule).
        """
        d, (r, latents), pairs = self.features.shape[1], self.mode.shape, k // 2
        prior = torch.randn(pairs, d + 1, latents, generator=generator, dtype=torch.float64)
        noise = torch.randn(pairs, latents, r, generator=generator, dtype=torch.float64).to(self.mode.device)
        spread = torch.linalg.solve_triangular(self.roots.mT, noise.permute(1, 2, 0), upper=True).permute(2, 1, 0)
        if self._is_dual:
            prior = prior.to(self.mode.device) * self._prior_sd(d)[:, None]
            reached = self.features @ prior[:, :d] + prior[:, d:]
            spread = prior + self._back(spread - torch.linalg.solve_triangular(self.basis, reached, upper=False))
        else:
            spread = self._back(spread)
        spread = self.confidence * math.sqrt(TEMPER) * torch.stack([spread, -spread], dim=1).flatten(0, 1)
        spread = torch.cat([spread, spread.new_zeros(k - 2 * pairs, d + 1, latents)])
        return self.weights + spread @ to_logits(self.n_classes, self.mode)

    def spread(self) -> tuple[Float[Tensor, " d1"], Float[Tensor, "l d1 m"]]:
        """(p, Q): the variance of latent l at z = [x, 1], as `draw` scales it, is |sum p z^2 - |Q_l^T z|^2|; for n > d p is 0."""
        d, scale = self.features.shape[1], self.confidence * math.sqrt(TEMPER)
        prior = self._prior_sd(d)
        if not self._is_dual:
            return torch.zeros_like(prior), scale * (prior[:, None] * torch.linalg.inv(self.roots).mT)
        half, kernel = self.curvature.T.sqrt(), self.basis @ self.basis.T
        root = torch.linalg.cholesky(torch.eye(len(kernel)).to(kernel) + half[:, :, None] * kernel * half[:, None, :])
        z = torch.cat([self.features, self.features.new_ones(len(kernel), 1)], dim=1) * prior.square()
        return (scale * prior).square(), scale * torch.linalg.solve_triangular(
            root, half[:, :, None] * z, upper=False
        ).mT

    def leave_one_out(self, targets: Tensor, counts: Tensor) -> tuple[Float[Tensor, "n l"], Float[Tensor, "n l"]]:
        """Mean and variance of the latents of each labelled image by a fit to the others, to first order."""
        latents, logits = self.basis @ self.mode, to_logits(self.n_classes, self.mode)
        gradient = counts[:, None] * (targets - (latents @ logits).softmax(1)) @ logits.T
        columns = [
            torch.cat(
                [
                    torch.linalg.solve_triangular(root, some.T, upper=False).square().sum(0)
                    for some in self.basis.split(4096)
                ]
            )
            for root in self.roots
        ]
        variance = torch.stack(columns, dim=1)
        left = (1 - self.curvature * variance).clamp_min(1e-6)
        return latents - variance * gradient / left, variance / left

    @property
    def _is_dual(self) -> bool:
        return self.basis.shape[0] == self.basis.shape[1] <= self.features.shape[1]

    def _prior_sd(self, d: int) -> Tensor:
        weights = self.features.new_full((d,), math.sqrt(self.variance / d))
        return torch.cat([weights, weights.new_full((1,), self.intercept_sd)])

    def _back(self, v: Float[Tensor, "*k r l"]) -> Float[Tensor, "*k d1 l"]:
        """Coordinates of the fit to weights and intercept."""
        d = self.features.shape[1]
        if not self._is_dual:
            return self._prior_sd(d)[:, None] * v
        dual = torch.linalg.solve_triangular(self.basis.T, v, upper=True)
        weights = self.variance / d * (self.features.T @ dual)
        return torch.cat([weights, self.intercept_sd**2 * dual.sum(-2, keepdim=True)], dim=-2)


def latent_variance(z: Float[Tensor, "b d1"], prior: Float[Tensor, " d1"], factor: Float[Tensor, "d1 m"]) -> Tensor:
    """The variance [b] of one latent at z = [x, 1], from `LinearPosterior.spread`."""
    explained = (z @ factor).square().sum(1)
    return (z.square() @ prior - explained).abs()  # without a prior term the factor is the variance itself


def fit(features: Float[Tensor, "n d"], targets: Float[Tensor, "n c"], counts: Float[Tensor, " n"]) -> LinearPosterior:
    """The posterior for n >= 1 images with class probabilities `targets`, image i counting `counts[i]` times.

    `variance` and `intercept_sd` are the pair of 3 x 4 with the largest evidence (a normal hyperprior on log10 of the
    variance), found on at most 256 images. The intercepts are centred at equal classes, so `intercept_sd` says how far the
    shares among the labels are believed. `confidence` is the one with the best leave-one-out likelihood under a
    standard normal prior on its logarithm. Memory: n (d + 2 r) + 2 l r^2 numbers in float64.
    Source: MacKay 1992; Rasmussen & Williams 2006, chapter 3. Differs: for more than two classes the curvature between
    classes is left out of the covariance, and its log-determinant counts (c - 1) / c; the posterior is tempered.
    """
    features, targets, counts = features.double(), targets.double(), counts.double()
    few = torch.arange(len(features))[:: math.ceil(len(features) / EVIDENCE_LABELS)]

    def score(variance: float, intercept_sd: float) -> float:
        found = fit_given(features[few], targets[few], counts[few], variance, intercept_sd)
        return found.evidence - 0.5 * ((math.log10(variance) - CENTRE) / WIDTH) ** 2

    best = max(((variance, sd) for sd in INTERCEPT_SDS for variance in VARIANCES), key=lambda pair: score(*pair))
    found = fit_given(features, targets, counts, *best)
    return LinearPosterior(**{**vars(found), "confidence": _confidence(found, targets, counts)})


def fit_given(
    features: Float[Tensor, "n d"],
    targets: Float[Tensor, "n c"],
    counts: Float[Tensor, " n"],
    variance: float,
    intercept_sd: float,
) -> LinearPosterior:
    """The Laplace approximation for a given prior, all in float64."""
    c, logits = targets.shape[1], to_logits(targets.shape[1], features)
    basis = _basis(features, variance, intercept_sd)
    mode = _mode(basis, targets, counts, logits)
    log_probs = (basis @ mode @ logits).log_softmax(1)
    p = log_probs.exp()
    curvature = counts[:, None] * (p @ logits.T.square() - (p @ logits.T).square())
    precision = torch.stack([(basis * column[:, None]).T @ basis for column in curvature.T])
    precision.diagonal(dim1=1, dim2=2).add_(1.0)
    roots = torch.linalg.cholesky(precision)
    likelihood = float((counts[:, None] * targets * log_probs).sum())
    log_determinant = 2 * float(roots.diagonal(dim1=1, dim2=2).log().sum())
    evidence = likelihood - 0.5 * float(mode.square().sum()) - 0.5 * (c - 1) / len(logits) * log_determinant
    loss = -likelihood / float(counts.sum())
    return LinearPosterior(features, basis, mode, roots, curvature, c, variance, intercept_sd, evidence, loss)


def to_logits(c: int, like: Tensor) -> Float[Tensor, "l c"]:
    """Latents to logits: half the log odds each way for two classes, else the identity."""
    return like.new_tensor([[-0.5, 0.5]]) if c == 2 else torch.eye(c).to(like)


def _basis(features: Tensor, variance: float, intercept_sd: float) -> Float[Tensor, "n r"]:
    """Phi with Phi Phi^T = variance / d x x^T + intercept_sd^2: a Cholesky factor, or for n > d the scaled features."""
    n, d = features.shape
    if n > d:
        return torch.cat([features * math.sqrt(variance / d), features.new_full((n, 1), intercept_sd)], dim=1)
    kernel = variance / d * features @ features.T + intercept_sd**2
    kernel.diagonal().add_(1e-8 * kernel.diagonal().mean() + 1e-10)  # copies of an image make it singular
    return torch.linalg.cholesky(kernel)


def _mode(basis: Tensor, targets: Tensor, counts: Tensor, logits: Tensor) -> Float[Tensor, "r l"]:
    """V that minimises |V|^2 / 2 - sum_i counts_i targets_i . log softmax(basis_i V logits): Newton steps by conjugate gradients."""
    mode, counts = basis.new_zeros(basis.shape[1], len(logits)), counts[:, None]

    def objective(v: Tensor) -> float:
        return float(0.5 * v.square().sum() - (counts * targets * (basis @ v @ logits).log_softmax(1)).sum())

    value = objective(mode)
    for _ in range(50):
        p = (basis @ mode @ logits).softmax(1)

        def hessian(step: Tensor, p: Tensor = p) -> Tensor:
            u = basis @ step @ logits
            return step + basis.T @ (counts * p * (u - (p * u).sum(1, keepdim=True))) @ logits.T

        step = _conjugate_gradients(hessian, mode - basis.T @ (counts * (targets - p)) @ logits.T)
        size = 1.0
        while (new := objective(mode - size * step)) > value + 1e-12 * abs(value) and size > 1e-4:
            size /= 2
        mode = mode - size * step
        if value - new <= 1e-10 * max(1.0, abs(value)):
            break
        value = new
    return mode


def _conjugate_gradients(matrix: Callable[[Tensor], Tensor], right: Tensor, tolerance: float = 1e-4) -> Tensor:
    """x with matrix(x) = right up to `tolerance` times the norm of `right`."""
    x, residual, direction = torch.zeros_like(right), right, right
    square = float(right.square().sum())
    enough = tolerance**2 * square
    for _ in range(200):
        if square <= enough:
            break
        product = matrix(direction)
        size = square / float((direction * product).sum())
        x, residual = x + size * direction, residual - size * product
        last, square = square, float(residual.square().sum())
        direction = residual + square / last * direction
    return x


def _confidence(found: LinearPosterior, targets: Tensor, counts: Tensor) -> float:
    latents, variance = found.leave_one_out(targets, counts)
    logits = to_logits(found.n_classes, latents)

    def score(s: float) -> float:
        shrunk = s * latents / (1 + s**2 * TEMPER * math.pi / 8 * variance).sqrt()
        return float((counts[:, None] * targets * (shrunk @ logits).log_softmax(1)).sum()) - 0.5 * math.log(s) ** 2

    return max(CONFIDENCES.tolist(), key=score)
