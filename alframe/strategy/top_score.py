"""Pick the images with the highest score: a score of `alframe.scores` or your own."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.errors import StrategyError, expect
from alframe.scores import Score
from alframe.strategy.base import Strategy
from alframe.types import PoolView, Prediction, Selection, Summary


def highest(scores: Float[Tensor, " n"], size: int, generator: torch.Generator) -> Int[Tensor, " q"]:
    """Positions of the `size` highest scores, the highest first; ties are broken by `generator`, never by position."""
    shuffled = torch.randperm(len(scores), generator=generator).to(scores.device)
    scores = scores[shuffled]
    # Which of equal scores topk returns is undefined, so it only gives the threshold; the few above it are sorted stably.
    kept = (scores >= scores.topk(size).values[-1]).nonzero().squeeze(1)
    return shuffled[kept[scores[kept].sort(descending=True, stable=True).indices[:size]]]


def name_of(score: Score) -> str:
    """Name of a score function, that of the function inside a `partial`."""
    inner = score.func if isinstance(score, partial) else score
    return getattr(inner, "__name__", type(inner).__name__)


def read_scores(score: Score, view: PoolView) -> Float[Tensor, " n"]:
    """The pool's scores from its summary. Raises `StrategyError` for NaN."""
    scores = view.pool["score"]
    missing = scores.isnan().nonzero().squeeze(1)
    expect(
        len(missing) == 0,
        f"Expected a score for every image, got NaN from {name_of(score)} at {len(missing)} positions "
        f"(the first: {missing[:5].tolist()}); fix the score, or check the network's outputs for NaN.",
        StrategyError,
    )
    return scores


@dataclass(frozen=True)
class ByScore(Strategy):
    """Images are picked by a `score`, a function log_probs [b, k, c] -> [b] in which higher means more worth labelling.

    `min_draws` is the minimum number of posterior draws for it. Raises `StrategyError` if it returns another shape or NaN.
    """

    score: Score

    def __post_init__(self) -> None:
        expect(
            self.min_draws >= 1,
            f"Expected min_draws of at least 1, got {self.min_draws}; use 1 for a point estimate.",
        )

    @property
    def name(self) -> str:
        return name_of(self.score)

    def summarize(self, prediction: Prediction) -> Summary:
        scores = self.score(prediction.log_probs)
        expect(
            scores.shape == prediction.log_probs.shape[:1],
            f"Expected one score for each of {len(prediction.log_probs)} images, got shape {tuple(scores.shape)} "
            f"from {name_of(self.score)}; return a tensor [b] for log_probs [b, k, c].",
            StrategyError,
        )
        return {"score": scores}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        scores = read_scores(self.score, view)
        picked = self.pick(scores, size, generator)
        return Selection(picked.cpu(), scores[picked].cpu(), name_of(self.score), pool_scores=scores.cpu())

    @abstractmethod
    def pick(self, scores: Float[Tensor, " n"], size: int, generator: torch.Generator) -> Int[Tensor, " q"]:
        """`size` distinct positions."""


@dataclass(frozen=True)
class TopScore(ByScore):
    """The top q images by `score`; see `ByScore` for the options."""

    min_draws: int = 1

    def pick(self, scores: Float[Tensor, " n"], size: int, generator: torch.Generator) -> Int[Tensor, " q"]:
        return highest(scores, size, generator)
