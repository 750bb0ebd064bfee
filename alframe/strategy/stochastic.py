"""Sample images by their score instead of taking the top: PowerBALD, PowerMargin, softmax and soft-rank acquisition."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.errors import expect
from alframe.strategy.top_score import ByScore, highest, name_of

Method = Literal["power", "softmax", "softrank"]


def sample(
    scores: Float[Tensor, " n"], size: int, method: Method, beta: float, generator: torch.Generator
) -> Int[Tensor, " q"]:
    """`size` distinct positions in the order in which they are drawn, one after another without replacement.

    An image's weight w is s^beta (power), exp(beta s) (softmax) or rank^-beta with rank 1 the highest score (softrank); each draw
    has probability w / (sum of the w that are left). The q largest log w + G, with G from a Gumbel distribution, are such draws.
    A power of a score of 0 or below is 0: such images are drawn uniformly once there is no other.
    Source: the Gumbel top-k trick, Vieira 2014; Kool, van Hoof & Welling 2019, arXiv:1903.06059.
    """
    scores = scores.double()
    if method == "power":
        log_weights = torch.special.xlogy(beta, scores.clamp_min(0))  # -inf for 0: an epsilon would favour it
    elif method == "softmax":
        log_weights = beta * scores
    else:
        ranked = highest(scores, len(scores), generator)
        log_weights = torch.empty_like(scores)
        log_weights[ranked] = -beta * torch.arange(1, len(scores) + 1, device=scores.device).double().log()
    uniform = torch.rand(len(scores), dtype=torch.float64, generator=generator)
    gumbel = -(-uniform.log()).log()
    return highest(log_weights + gumbel.to(log_weights.device), size, generator)


@dataclass(frozen=True)
class Stochastic(ByScore):
    """Draw q images without replacement, each with a probability that grows with its `score`: diverse at the cost of a sort.

    The weight of an image is s^beta (`method="power"`), exp(beta s) (`"softmax"`) or rank^-beta (`"softrank"`); see `sample`. beta = 0
    is uniform, and a large beta is the plain top q. Scores are the plain ones. See `ByScore` for `score` and `min_draws`.
    Source: Kirsch et al. 2023 (TMLR), arXiv:2106.12059. Differs: no epsilon is added to a score of 0.
    """

    method: Method = "power"
    beta: float = 1.0
    min_draws: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(
            0 <= self.beta < math.inf,
            f"Expected beta from 0 (uniform) upwards and finite, got {self.beta}; 1 is the paper's choice.",
        )

    @property
    def name(self) -> str:
        return f"{self.method}_{name_of(self.score)}"

    def pick(self, scores: Float[Tensor, " n"], size: int, generator: torch.Generator) -> Int[Tensor, " q"]:
        return sample(scores, size, self.method, self.beta, generator)
