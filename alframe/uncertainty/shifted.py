"""A posterior whose probabilities fit the shares of the classes in the pool, where queries bought other shares."""

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior

MODEL_IMAGES = 10.0
"""The model's own shares of the pool weigh as much as this many random images for each class but one."""


class Shifted(Posterior):
    """`inner` with `shift` [c] added to the logits of every draw: for what is shown, measured and exported, not for queries.

    The order of two images by the odds of two classes hardly changes; with the shift, queries would follow the pool's
    shares away from the boundary between the classes.
    """

    def __init__(self, inner: Posterior, shift: Tensor) -> None:
        self.inner, self.networks, self.shift = inner, inner.networks, shift

    @classmethod
    def fit(cls, inner: Posterior, pool: Iterable[tuple[Tensor, Augmented]], counts: Tensor) -> Self:
        """The shift with which the mean probabilities of `pool` images are the estimated shares of the classes.

        `counts` [c]: classes among the labelled images that were drawn at random. The shares are the mean of a Dirichlet
        posterior whose prior is worth 10 (c - 1) images with the shares that `inner` predicts; without random images there
        is no shift. Source: Saerens et al. 2002 (Neural Computation 14), with the shares given instead of estimated by EM.
        """
        shift, counts = torch.zeros(len(counts)), counts.double()
        if counts.sum() == 0:
            return cls(inner, shift)
        draws = torch.cat([inner.predict(x, augmented).log_probs.double().cpu() for x, augmented in pool])
        weight = MODEL_IMAGES * (len(counts) - 1)
        shares = (counts + weight * draws.exp().mean((0, 1))) / (counts.sum() + weight)
        shift = shift.double()
        for _ in range(200):
            step = shares.log() - (draws + shift).log_softmax(-1).exp().mean((0, 1)).clamp_min(1e-300).log()
            shift += step
            if float(step.abs().max()) < 1e-6:
                break
        return cls(inner, (shift - shift.mean()).float())

    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        inner, shift = self.inner.predict(x, augmented), self.shift.to(x.device)
        log_probs = (inner.log_probs + shift).log_softmax(dim=-1)
        return Prediction(log_probs, inner.features, (inner.point_log_probs + shift).log_softmax(dim=-1))

    @property
    def for_queries(self) -> Posterior:
        return self.inner

    @property
    def head(self) -> Callable[[Tensor], Tensor]:
        return self.inner.head

    @property
    def state(self) -> dict[str, Tensor]:
        return {**self.inner.state, "shift": self.shift}

    @property
    def numbers(self) -> dict[str, float]:
        two = {"posterior/shift": float(self.shift[1] - self.shift[0])} if len(self.shift) == 2 else {}
        return {**self.inner.numbers, **two}
