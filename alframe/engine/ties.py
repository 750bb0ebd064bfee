"""The best of many scores, with ties up to rounding broken at random."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SAME = 1e-10  # of the highest score: far above what float64 sums lose, far below what a rule can tell apart


def highest_of_equals(scores: Float[Tensor, " n"], order: Int[Tensor, " n"]) -> int:
    """Position of the highest score; among those that equal it up to rounding, the one that comes first in `order`, a permutation.

    With an `order` drawn at random (`random_order`) ties do not follow the position. Scores are float64, and not NaN.
    """
    top = scores.max()
    equals = (scores >= top - _SAME * top.abs()).nonzero().squeeze(1)
    return int(equals[order[equals].argmin()])


def random_order(n: int, generator: torch.Generator, device: torch.device) -> Int[Tensor, " n"]:
    """A random rank for each of `n` positions."""
    return torch.randperm(n, generator=generator).to(device)


def fill_at_random(picked: list[int], n: int, size: int, generator: torch.Generator) -> list[int]:
    """`picked`, and up to `size` others of `n` positions drawn at random: for a rule that has no preference left."""
    left = torch.ones(n, dtype=torch.bool)
    left[picked] = False
    rest = left.nonzero().squeeze(1)
    return picked + rest[torch.randperm(len(rest), generator=generator)[: size - len(picked)]].tolist()
