"""Greedy maximisation of a monotone submodular objective, exact, re-evaluating only what may still win.

What an image adds can only shrink as others are picked: the best fresh gain wins as soon as no outdated gain lies above it.
Source: Minoux 1978; the guarantee of 1 - 1/e is Nemhauser, Wolsey & Fisher 1978.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

_FIRST_BLOCK, _LARGEST_BLOCK = 8, 256  # candidates evaluated together: more each time that none of them wins


def lazy_greedy(
    bounds: Float[Tensor, " n"],
    gains: Callable[[Int[Tensor, " m"]], Float[Tensor, " m"]],
    take: Callable[[int], bool | None],
    size: int,
    generator: torch.Generator,
    *,
    at_least: float = 0.0,
    tighten: Callable[[Int[Tensor, " m"]], Float[Tensor, " m"]] | None = None,
) -> tuple[list[int], list[float]]:
    """Up to `size` distinct positions in greedy order, and the gain each had when it was picked.

    `bounds` is an upper bound of each gain (-inf for what may not be picked); `gains(positions)` are the gains now; `take(position)`
    picks, and may answer True when nothing is left to gain. Stops then, or before the first gain that is not above `at_least`. Ties
    go by `generator`. If gains are expensive, `tighten(positions)` gives cheaper upper bounds, which may rule positions out.
    """
    shuffled = torch.randperm(len(bounds), generator=generator).to(bounds.device)
    bounds = bounds[shuffled].double()
    fresh_at = torch.full_like(bounds, -1, dtype=torch.int64)  # picks that a bound has taken in
    tight_at = fresh_at.clone()
    picked: list[int] = []
    scores: list[float] = []
    while len(picked) < min(size, len(bounds)):
        block = _FIRST_BLOCK
        while True:
            top = bounds.topk(min(max(block, _LARGEST_BLOCK if tighten else 0) + 1, len(bounds)))
            if tighten:
                loose = top.indices[(tight_at[top.indices] < len(picked)) & (top.values > at_least)]
                if len(loose):
                    bounds[loose] = torch.minimum(bounds[loose], tighten(shuffled[loose]).to(bounds))
                    tight_at[loose] = len(picked)
                    continue
            candidates = top.indices[:block]
            stale = candidates[(fresh_at[candidates] < len(picked)) & (top.values[:block] > at_least)]
            if len(stale):
                bounds[stale] = gains(shuffled[stale]).to(bounds)
                fresh_at[stale] = tight_at[stale] = len(picked)
            best = candidates[bounds[candidates].argmax()]
            outside = float(top.values[block]) if len(top.values) > block else float("-inf")
            gain = float(bounds[best])
            if gain >= outside or max(gain, outside) <= at_least:
                break
            block = min(2 * block, _LARGEST_BLOCK)
        if gain <= at_least:
            break
        bounds[best] = float("-inf")
        position = int(shuffled[best])
        picked.append(position)
        scores.append(gain)
        if take(position):
            break
    return picked, scores
