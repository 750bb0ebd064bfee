"""Subsampling for rules that compare images in pairs."""

import torch
from jaxtyping import Int
from torch import Tensor


def sub_pool(n: int, max_points: int, size: int, generator: torch.Generator) -> Int[Tensor, " m"] | None:
    """Sorted positions of max(`max_points`, `size`) images drawn at random, or None where that is all `n` of them."""
    m = max(max_points, size)
    return None if m >= n else torch.randperm(n, generator=generator)[:m].sort().values
