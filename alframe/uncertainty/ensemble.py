"""Several networks trained from different initialisations: each member is one posterior draw."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alframe.types import Prediction
from alframe.uncertainty.base import Augmented, Method, Posterior, Task, Uncertainty, expect_spread


@dataclass(frozen=True)
class Ensemble(Uncertainty):
    """A deep ensemble: k = `members` networks, trained on the same labelled images.

    Costs `members` times the training and the inference of a point estimate. `method` says how they are trained:
    `one_by_one`, `together` (in the same steps, by torch.vmap; without early stopping and best checkpoints only) or `auto`:
    `together` on CUDA when no network has a convolution, else `one_by_one`. Raises ConfigError if `members` < 2.
    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474; in active learning Beluch et al. 2018. Differs: no
    adversarial training.
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

    def fit(self, task: Task, generator: torch.Generator) -> "EnsemblePosterior":
        return EnsemblePosterior(task.train_members(self.members, self.method))

    def restore(self, networks: list[nn.Module], state: Mapping[str, Tensor]) -> "EnsemblePosterior":
        return EnsemblePosterior(networks)


class EnsemblePosterior(Posterior):
    """The members in eval mode; features and point prediction are those of member 0."""

    def __init__(self, networks: list[nn.Module]) -> None:
        self.networks = [network.eval() for network in networks]

    @torch.no_grad()
    def predict(self, x: Tensor, augmented: Augmented | None = None) -> Prediction:
        features = self.networks[0].embed(x)  # type: ignore[operator]
        logits = [self.head(features.clone()), *(network(x) for network in self.networks[1:])]
        log_probs = torch.stack(logits, dim=1).float().log_softmax(dim=-1)
        return Prediction(log_probs, features.float(), log_probs[:, 0])
