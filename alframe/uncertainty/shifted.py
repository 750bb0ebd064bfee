"""A posterior whose probabilities fit the shares of the classes in the pool, where queries bought other shares."""

from collections.abc import Callable, Iterable
from typing import Self

import torch
from torch import Tensor

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Posterior

BELIEVED = 0.90
"""Shares that random images leave possible at this level are not corrected: few of them say little about a rare class."""


class Shifted(Posterior):
    """`inner` with `shift` [c] added to the logits of every draw: for what is shown, measured and exported, not for queries.

    The order of two images by the odds of two classes hardly changes; with the shift, queries would follow the pool's
    shares away from the boundary between the classes.
    """

    def __init__(self, inner: Posterior, shift: Tensor) -> None:
        self.inner, self.networks, self.shift = inner, inner.networks, shift

    @classmethod
    def fit(cls, inner: Posterior, pool: Iterable[tuple[Tensor, Augmented]], counts: Tensor) -> Self:
        """The shift with which the mean probabilities of `pool` images are shares that random images leave possible.

        `counts` [c]: classes among the labelled images that were drawn at random. The share that `inner` predicts of a class
        is moved to the nearer bound of the central 90 % interval of its Beta posterior (Jeffreys' prior), and stays where it
        is inside; without random images there is no shift.
        Source: Saerens et al. 2002 (Neural Computation 14), with the shares given instead of estimated by EM.
        """
        shift = torch.zeros(len(counts), dtype=torch.float64)
        if counts.sum() == 0:
            return cls(inner, shift.float())
        from scipy.stats import beta  # takes a second to import

        draws = torch.cat([inner.predict(x, augmented).log_probs.double().cpu() for x, augmented in pool])
        predicted = draws.exp().mean((0, 1))
        low, high = (
            torch.from_numpy(beta.ppf(level, counts + 0.5, counts.sum() - counts + 0.5))
            for level in ((1 - BELIEVED) / 2, (1 + BELIEVED) / 2)
        )
        if bool(((predicted >= low) & (predicted <= high)).all()):
            return cls(inner, shift.float())
        shares = predicted.clamp(low, high).clamp_min(1e-6)
        shares /= shares.sum()
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
