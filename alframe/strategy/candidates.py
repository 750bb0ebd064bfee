"""Any strategy on a random subset of the pool, at the cost of that subset."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from alframe.engine.sub_pool import sub_pool
from alframe.errors import expect
from alframe.strategy.base import Schedule, Strategy, declare_for, expect_at_least
from alframe.types import PoolView, Prediction, Selection, Summary


@dataclass(frozen=True)
class Candidates(Strategy):
    """`strategy` on `size` images drawn uniformly from the pool, new ones each round; no other image is processed.

    A query of more than `size` images gets that many candidates, and a smaller pool is used whole. Raises `ConfigError` for
    `size` < 1 and for a `strategy` that is a schedule (put candidates inside the switch instead).
    Source: the subset trick of Beluch et al. 2018 (CVPR), and of most peers' large-pool runs.
    """

    strategy: Schedule
    size: int = 10_000

    def __post_init__(self) -> None:
        expect(
            isinstance(self.strategy, Strategy),
            f"Expected a strategy inside candidates, got {type(self.strategy).__name__}; put candidates inside the switch instead.",
        )
        expect_at_least(self, size=1)
        declare_for(self, self.strategy)
        for declared in ("needs_pool_pass", "needs_network"):
            object.__setattr__(self, declared, getattr(self._inner, declared))

    @property
    def _inner(self) -> Strategy:
        assert isinstance(self.strategy, Strategy)
        return self.strategy

    @property
    def name(self) -> str:
        return self._inner.name

    def subset(self, n: int, size: int, generator: torch.Generator) -> Int[Tensor, " m"] | None:
        mine = sub_pool(n, self.size, size, generator)
        inner = self._inner.subset(n if mine is None else len(mine), size, generator)
        return inner if mine is None else mine if inner is None else mine[inner]

    def summarize(self, prediction: Prediction) -> Summary:
        return self._inner.summarize(prediction)

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        return self._inner.select(view, size, generator)
