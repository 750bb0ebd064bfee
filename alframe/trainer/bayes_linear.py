"""Bayesian logistic regression on frozen features: exact, with no learning rate, and calibrated with few labels of any shares."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from alframe.engine import bayes_linear
from alframe.engine.bayes_linear import LinearPosterior
from alframe.errors import TrainingError
from alframe.trainer.base import Cycles, FitReport, Fitter, Lesson, Stream


@dataclass(frozen=True)
class BayesLinear(Fitter):
    """The linear layer of `model=frozen` at its posterior mode, and a posterior for `uncertainty=laplace`.

    The prior's variances are found by the evidence, the confidence by leave-one-out (`alframe.engine.bayes_linear`). Soft
    labels count by their parts. An ensemble's members weigh the images by Dirichlet(1, ..., 1) draws (the Bayesian
    bootstrap, Rubin 1981). With `match_pool`, probabilities that are shown and measured are shifted to class shares of
    the pool that random images leave possible (`alframe.uncertainty.shifted.Shifted`); queries see them unshifted.
    """

    match_pool: bool = True

    linear_only: ClassVar[bool] = True

    @property
    def matches_pool(self) -> bool:  # type: ignore[override]
        return self.match_pool

    def fit(self, network: nn.Module, lesson: Lesson, stream: Stream, cycles: Cycles | None = None) -> FitReport:
        posterior = self.posterior(network, lesson, stream)
        layer, weights = network.classifier, posterior.weights.float()
        assert isinstance(layer, nn.Linear), "checked before any data is read"
        if not bool(torch.isfinite(weights).all()):
            raise TrainingError(
                f"Expected finite weights from {len(lesson.examples)} labelled images, got NaN or infinity; check the features."
            )
        with torch.no_grad():
            layer.weight.copy_(weights[:-1].T)
            layer.bias.copy_(weights[-1])
        network.eval()
        return FitReport(0, posterior.loss, 0, posterior=posterior)

    def posterior(self, network: nn.Module, lesson: Lesson, stream: Stream) -> LinearPosterior:
        rows, truth = lesson.examples.rows, lesson.examples.truth
        with torch.no_grad():
            parts = [network.embed(lesson.prepare(raw)) for raw in lesson.pixels.stream(rows.split(1024))]  # type: ignore[operator]
        features = torch.cat(parts)
        targets = truth if truth.is_floating_point() else one_hot(truth, lesson.n_classes).float()
        counts = self._counts(len(rows), stream("bootstrap")) if lesson.resampled else torch.ones(len(rows))
        return bayes_linear.fit(features, targets.to(features.device), counts.to(features.device))

    def _counts(self, n: int, generator: torch.Generator) -> Tensor:
        waits = -torch.rand(n, generator=generator, dtype=torch.float64).clamp_min(1e-12).log()
        return n * waits / waits.sum()
