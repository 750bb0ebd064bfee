"""Several networks trained from different initialisations: each member is one posterior draw."""

from dataclasses import dataclass

import torch

from alframe.uncertainty.base import ByPasses, Method, Passes, Task, expect_spread


@dataclass(frozen=True)
class Ensemble(ByPasses):
    """A deep ensemble: k = `members` networks, trained on the same labelled images.

    `method` says how they are trained: `one_by_one`, `together` (in the same steps, by torch.vmap; without early stopping and best
    checkpoints only) or `auto`: `together` on CUDA when no network has a convolution, else `one_by_one`. Raises ConfigError if
    `members` < 2.
    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474; Beluch et al. 2018. Differs: no adversarial training.
    """

    members: int = 5
    method: Method = "auto"

    def __post_init__(self) -> None:
        expect_spread(members=self.members)

    @property
    def together(self) -> bool:  # type: ignore[override]
        return self.method == "together"

    @property
    def n_draws(self) -> int:
        return self.members

    def fit(self, task: Task, generator: torch.Generator) -> Passes:
        return Passes(task.train_members(self.members, self.method))
