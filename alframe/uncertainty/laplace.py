"""Laplace approximation: a Gaussian over the weights of the last layer."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from alframe.engine.bayes_linear import latent_variance
from alframe.errors import ConfigError, expect
from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior, Task, Uncertainty, expect_spread

Spread = tuple[Tensor, Tensor]
PRECISIONS = torch.logspace(-4, 6, 201, dtype=torch.float64)


@dataclass(frozen=True)
class Laplace(Uncertainty):
    """Laplace's approximation for the last linear layer, with k = `draws` weights drawn once a round.

    The curvature is the Gauss-Newton matrix of the cross-entropy (whatever the trainer weighs or smooths) in Kronecker
    form, A (x) B with A = sum of h h^T over the images (h with a 1 for the bias) and B = mean of diag(p) - p p^T; weights ~
    N(trained weights, (A (x) B + tau I)^-1). `prior_precision` is tau; null: the one with the largest marginal likelihood,
    of 201 from 1e-4 to 1e6 (without a label, that of the initial weights; of a soft label, the expected log-likelihood). Memory
    (d + 1)^2 + k c (d + 1) numbers for d features. Raises ConfigError if `draws` < 2, `prior_precision` <= 0, or the logits are
    not what a linear layer gives.
    Source: MacKay 1992; Ritter et al. 2018; Daxberger et al. 2021, arXiv:2106.14806. Differs: draws of the weights rather
    than the probit approximation, since strategies want consistent draws.
    """

    draws: int = 20
    prior_precision: float | None = None

    def __post_init__(self) -> None:
        expect_spread(draws=self.draws)
        expect(
            self.prior_precision is None or self.prior_precision > 0,
            f"Expected uncertainty.prior_precision above 0 or null, got {self.prior_precision}; null finds it.",
        )

    @property
    def n_draws(self) -> int:
        return self.draws

    @property
    def fixes_prior(self) -> bool:
        return self.prior_precision is not None

    def fit(self, task: Task, generator: torch.Generator) -> "LaplacePosterior":
        network = task.train()
        known = task.weight_posterior(network)
        if known is None:
            return LaplacePosterior(network, task.training(), self.draws, self.prior_precision, generator)
        spread = known.spread() if known.n_classes == 2 else None
        precision = known.features.shape[1] / known.variance
        return LaplacePosterior.drawn(network, known.draw(self.draws, generator).float(), precision, spread)

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> "LaplacePosterior":
        spread = (state["prior"], state["factor"]) if "factor" in state else None
        return LaplacePosterior.drawn(networks[0], state["weights"], float(state["prior_precision"]), spread)


class LaplacePosterior(Posterior):
    """The network in eval mode, and the drawn weights [k, d + 1, c] of its last layer (the last row is the bias)."""

    def __init__(
        self,
        network: nn.Module,
        training: Iterable[tuple[Tensor, Tensor]],
        draws: int,
        prior_precision: float | None,
        generator: torch.Generator,
    ) -> None:
        self._begin(network)
        gram, noise, log_likelihood = self._curvature(training)
        inputs, input_axes = torch.linalg.eigh(gram)
        outputs, output_axes = torch.linalg.eigh(noise)
        curvature = (inputs[:, None] * outputs).clamp_min(0)  # [d + 1, c]
        self.prior_precision = prior_precision or self._best_precision(curvature, log_likelihood)
        noise_draws = torch.randn(draws, *curvature.shape, generator=generator, dtype=torch.float64)
        # The symmetric root: the axes of equal curvature, which rounding chooses, do not matter.
        rotated = input_axes.T @ noise_draws.to(curvature.device) @ output_axes
        scaled = rotated / (curvature + self.prior_precision).sqrt()
        self.weights = (self._trained + input_axes @ scaled @ output_axes.T).float()

    @classmethod
    def drawn(cls, network: nn.Module, weights: Tensor, prior_precision: float, spread: Spread | None = None) -> Self:
        """The posterior whose `weights` [k, d + 1, c] were drawn before.

        With `spread` (`LinearPosterior.spread`, two classes) the draws of each image are scaled to the exact variance of its
        log odds, so that the mean over a few draws ranks images as the posterior mean does.
        """
        posterior = cls.__new__(cls)
        posterior._begin(network)
        posterior.weights = weights.to(posterior.layer.weight.device)
        posterior.prior_precision = prior_precision
        if spread is not None:
            prior, factor = (part.float().to(posterior.weights.device) for part in spread)
            posterior.spread = prior, factor.reshape(len(prior), -1)
        return posterior

    def _begin(self, network: nn.Module) -> None:
        self.networks = [network.eval()]
        self.layer = last_linear(network)
        self._checked = False
        self.spread: Spread | None = None

    @property
    def state(self) -> dict[str, Tensor]:
        """The drawn weights, the prior precision that their spread comes from, and what the exact variances need."""
        precision = torch.tensor(self.prior_precision, dtype=torch.float64)
        exact = {} if self.spread is None else {"prior": self.spread[0], "factor": self.spread[1]}
        return {"weights": self.weights, "prior_precision": precision, **exact}

    @property
    def _trained(self) -> Tensor:
        """Weights and bias of the trained layer, float64 [d + 1, c]."""
        weight, bias = self.layer.weight.detach().double().T, self.layer.bias
        return weight if bias is None else torch.cat([weight, bias.detach().double()[None]])

    @torch.no_grad()
    def _curvature(self, training: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, float]:
        """A [d + 1, d + 1] and B [c, c] in float64, and the log-likelihood of the labels."""
        d, c = self._trained.shape
        gram = torch.zeros(d, d, dtype=torch.float64, device=self.layer.weight.device)
        noise = torch.zeros(c, c, dtype=torch.float64, device=gram.device)
        log_likelihood, n = 0.0, 0
        for x, labels in training:
            _, inputs, logits = self._forward(x)
            h, log_probs = inputs.double(), logits.double().log_softmax(dim=-1)
            p = log_probs.exp()
            gram += h.T @ h
            noise += p.sum(dim=0).diag() - p.T @ p
            soft = labels.is_floating_point()
            log_likelihood += float((labels * log_probs if soft else log_probs.gather(1, labels[:, None])).sum())
            n += len(x)
        return gram, noise / max(n, 1), log_likelihood

    def _best_precision(self, curvature: Tensor, log_likelihood: float) -> float:
        """The prior precision with the largest marginal likelihood under the approximation."""
        values = curvature.flatten().cpu()
        penalty = float(self._trained.square().sum())
        if not values.any():  # nothing labelled: the evidence would ask for a prior without end
            return values.numel() / penalty
        evidence = [
            log_likelihood - 0.5 * (tau * penalty + float(torch.log1p(values / tau).sum()))
            for tau in PRECISIONS.tolist()
        ]
        return float(PRECISIONS[int(torch.tensor(evidence).argmax())])

    def _forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features [b, d'], what the last layer reads, with a 1 for the bias [b, d + 1], logits [b, c]."""
        features = self.networks[0].embed(x)  # type: ignore[operator]
        seen: list[tuple[Tensor, Tensor]] = []
        hook = lambda _, inputs, output: seen.append((inputs[0].clone(), output.clone()))  # noqa: E731 - a head may work in place
        handle = self.layer.register_forward_hook(hook)
        try:
            logits = self.head(features.clone())
        finally:
            handle.remove()
        if not self._checked:
            self._checked = True
            given = seen[-1][1] if seen else logits[:0]
            if given.shape != logits.shape or not torch.allclose(given, logits, equal_nan=True):
                raise ConfigError(
                    f"Expected the logits of {type(self.networks[0]).__name__} to be the output of its last linear layer, for "
                    "uncertainty=laplace, got something else; use uncertainty=mc_dropout or uncertainty=ensemble."
                )
        h = seen[-1][0].float()
        return features, h if self.layer.bias is None else add_one(h), logits

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        features, h, logits = self._forward(x)
        drawn = drawn_logits(h, logits.float(), self.weights, self.spread)
        return Prediction(drawn.log_softmax(dim=-1), features.float(), logits.float().log_softmax(dim=-1))

    @property
    def numbers(self) -> dict[str, float]:
        return {"posterior/prior_precision": self.prior_precision}


def add_one(h: Tensor) -> Tensor:
    """[b, d] with a 1 for the bias, [b, d + 1]."""
    return torch.cat([h, torch.ones_like(h[:, :1])], dim=1)


def drawn_logits(h: Tensor, logits: Tensor, weights: Tensor, spread: Spread | None) -> Tensor:
    """Logits of the draws [b, k, c]: h [b, d + 1] by `weights` [k, d + 1, c], with the variance of `spread` about `logits` [b, c]."""
    drawn = torch.einsum("bd,kdc->bkc", h, weights)
    if spread is None:
        return drawn
    middle = logits[:, None]
    odds = (drawn - middle).diff(dim=2)[..., 0]
    scale = (latent_variance(h, *spread) / odds.square().mean(dim=1).clamp_min(1e-12)).sqrt()
    return middle + (drawn - middle) * scale[:, None, None]


def last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last one of the network. Raises ConfigError if there is none."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError(
            f"Expected a network whose logits come from a linear layer for uncertainty=laplace, got {type(network).__name__} "
            "with none; use uncertainty=mc_dropout or uncertainty=ensemble."
        )
    return layers[-1]
