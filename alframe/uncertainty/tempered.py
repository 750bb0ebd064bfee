"""Temperature scaling: one number that makes a posterior's confidence fit the validation images."""

from collections.abc import Callable, Iterable, Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import nll_loss

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior, Uncertainty
from alframe.uncertainty.shifted import Shifted

COOLEST, HOTTEST = 0.05, 20.0


class Tempered(Posterior):
    """`inner` with the logits of every draw, of the point prediction and of the head divided by `temperature`.

    Which class is the most likely for a draw does not change, so accuracy changes only through the mean over the draws.
    """

    def __init__(self, inner: Posterior, temperature: float) -> None:
        self.inner, self.networks, self.temperature = inner, inner.networks, temperature

    @classmethod
    def fit(cls, inner: Posterior, validation: Iterable[tuple[Tensor, Augmented, Tensor]]) -> Self:
        """The temperature in [0.05, 20] with the least negative log-likelihood of the mean over the draws; 1 without images.

        Source: Guo et al. 2017, arXiv:1706.04599; all draws scaled by one temperature before they are averaged, as Rahaman &
        Thiery 2021 (arXiv:2007.08792) compare. Differs: a standard normal prior on log T, worth one image, so that a handful
        of images that are all classified rightly does not make the posterior certain.
        """
        parts = [
            (inner.predict(x, augmented).log_probs.double().cpu(), labels.cpu()) for x, augmented, labels in validation
        ]
        if not parts:
            return cls(inner, 1.0)
        log_probs, labels = (torch.cat(tensors) for tensors in zip(*parts, strict=True))

        def loss(log_temperature: float) -> float:
            scaled = (log_probs / torch.tensor(log_temperature).exp()).log_softmax(dim=-1)
            mean = scaled.logsumexp(dim=1) - torch.tensor(float(scaled.shape[1])).log()
            return float(nll_loss(mean, labels, reduction="sum")) + log_temperature**2 / 2

        bounds = torch.tensor([COOLEST, HOTTEST]).log().tolist()
        from scipy.optimize import minimize_scalar  # takes a second to import

        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
        return cls(inner, float(torch.tensor(found.x).exp()))

    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        inner = self.inner.predict(x, augmented)
        log_probs = (inner.log_probs / self.temperature).log_softmax(dim=-1)
        return Prediction(log_probs, inner.features, (inner.point_log_probs / self.temperature).log_softmax(dim=-1))

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        head, temperature = self.inner.head, self.temperature
        return lambda features: head(features) / temperature

    @property
    def state(self) -> dict[str, Tensor]:
        return {**self.inner.state, "temperature": torch.tensor(self.temperature, dtype=torch.float64)}

    @property
    def numbers(self) -> dict[str, float]:
        return {**self.inner.numbers, "posterior/temperature": self.temperature}


def restore(uncertainty: Uncertainty, networks: list[nn.Module], state: Mapping[str, Tensor]) -> Posterior:
    """The posterior that a fit ended with, from its networks and its `state`: tempered and shifted where that says so."""
    posterior = uncertainty.restore(networks, state)
    if "temperature" in state:
        posterior = Tempered(posterior, float(state["temperature"]))
    return Shifted(posterior, state["shift"]) if "shift" in state else posterior
