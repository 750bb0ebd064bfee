"""The information that a label gives about predictions on a target set."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from alframe.engine.distances import full_precision, rows_within
from alframe.errors import StrategyError, expect
from alframe.strategy.base import Strategy
from alframe.strategy.top_score import highest
from alframe.types import PoolView, Prediction, Selection, Summary

_TILE_BYTES = 1 << 23  # joint probabilities worked on at once: more would leave the cache
_BLOCK = 512  # images whose information is computed together
_ROUNDING = 1e-6  # nats: a bound below this is no information


@dataclass(frozen=True)
class Epig(Strategy):
    """The top q images by EPIG(x) = mean over targets x* of I[y; y* | x, x*] in nats, in [0, log c].

    p(y, y*) = mean_k p_k(y|x) p_k(y*|x*): draw k is the same function for pool and targets. `view.target` is a sample of the
    images that the model will be used on, not the labelled ones. For q > 1 it is the top q, as in the paper: equal images score
    equally, so near-duplicates come together. Raises `StrategyError` when there are no targets, or when they have other draws.
    Source: Bickford Smith et al. 2023, arXiv:2304.08151. Differs: the same numbers, but computed only for images that a cheap
    upper bound does not rule out, the smaller of log(1 + mean of χ²[y; y*]) and the mean of min(I[y; draw], I[y*; draw]).
    """

    needs: ClassVar[frozenset[str]] = frozenset({"target"})
    min_draws = 2

    def summarize(self, prediction: Prediction) -> Summary:
        return {"log_probs": prediction.log_probs}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        log_probs = view.pool["log_probs"]
        targets = _Targets(log_probs, view)
        with full_precision():
            bounds = targets.bounds(log_probs)
            order = bounds.argsort(descending=True)
            scores = torch.full_like(bounds, -torch.inf)
            scores[bounds <= _ROUNDING] = 0
            done = 0
            while done < view.n:
                threshold = float(scores.topk(size).values[-1])  # -inf until q of them are known
                block = order[done : done + _BLOCK]
                block = block[(bounds[block] >= threshold) & (bounds[block] > _ROUNDING)]
                if not len(block):
                    break
                scores[block] = targets.information(log_probs[block])
                done += _BLOCK
        picked = highest(scores, size, generator)
        known = scores.cpu() if scores.min() >= 0 else None
        return Selection(picked.cpu(), scores[picked].cpu(), "epig", pool_scores=known)


class _Targets:
    """The targets' predictions, as ratios p_k(y*|x*) / p̄(y*|x*) with the weight p̄(y*|x*) / m of each."""

    def __init__(self, pool: Float[Tensor, "n k c"], view: PoolView) -> None:
        target = None if view.target is None else view.target["log_probs"]
        expect(
            target is not None and len(target) > 0 and target.shape[1] == pool.shape[1],
            f"Expected target images with the {pool.shape[1]} draws of the pool, got "
            f"{'none' if target is None or not len(target) else f'{target.shape[1]} draws'}; set query.target to pool, test or a "
            "folder of images.",
            StrategyError,
        )
        assert target is not None
        ratios, means = _ratios(target)
        self.max_bytes = view.max_bytes
        self.n_targets, self.k = target.shape[:2]
        self.ratios = ratios.permute(1, 0, 2).reshape(self.k, -1)  # [k, m c]
        self.weights = means.flatten() / self.n_targets  # [m c]
        self.bald = _information(ratios, means).sort().values.double()
        self.sums = torch.cat([self.bald.new_zeros(1), self.bald.cumsum(dim=0)])
        centred = self.ratios.double() - 1
        self.scatter = ((centred * self.weights) @ centred.T / self.k**2).float()  # [k, k]

    def bounds(self, log_probs: Float[Tensor, "n k c"]) -> Float[Tensor, " n"]:
        """At least EPIG, at a cost that does not depend on the number of targets.

        I <= log(1 + χ²) for each pair, with χ² = mean of (p(y, y*) / (p̄(y) p̄(y*)) - 1)², and I[y; y*] <= I[y; draw], I[y*; draw].
        """
        rows = rows_within(min(self.max_bytes, _TILE_BYTES), 6 * log_probs[0].nbytes)
        return torch.cat([self._bounds(chunk) for chunk in log_probs.split(rows)])

    def _bounds(self, log_probs: Float[Tensor, "b k c"]) -> Float[Tensor, " b"]:
        ratios, means = _ratios(log_probs)
        bald = _information(ratios, means).double()
        below = torch.searchsorted(self.bald, bald)
        by_draws = (self.sums[below] + (self.n_targets - below) * bald) / self.n_targets
        centred = (ratios - 1).transpose(1, 2)
        squares = ((centred @ self.scatter) * centred).sum(dim=2)
        by_squares = (squares * means).sum(dim=1).clamp_min(0).log1p()
        return (1 + 1e-5) * torch.minimum(by_draws.float(), by_squares) + 1e-7  # rounding must not hide an image

    def information(self, log_probs: Float[Tensor, "n k c"]) -> Float[Tensor, " n"]:
        """EPIG: mean over targets of sum p̄(y) p̄(y*) φ(r), where r = p(y, y*) / (p̄(y) p̄(y*)) and φ(r) = r log r - r + 1.

        The same as sum p(y, y*) log r, but no term is negative: nothing cancels, and float32 keeps small values.
        """
        c = log_probs.shape[2]
        columns = rows_within(_TILE_BYTES, 8 * c)  # of the targets: always so many, so sums do not follow max_bytes
        rows = rows_within(min(self.max_bytes, _TILE_BYTES), 8 * c * min(columns, len(self.weights)))
        return torch.cat([self._information(chunk, columns) for chunk in log_probs.split(rows)])

    def _information(self, log_probs: Float[Tensor, "b k c"], columns: int) -> Float[Tensor, " b"]:
        ratios, means = _ratios(log_probs)
        left = ratios.transpose(1, 2).reshape(-1, self.k) / self.k  # [b c, k]
        total = left.new_zeros(len(left), dtype=torch.float64)
        for start in range(0, len(self.weights), columns):
            joint = left @ self.ratios[:, start : start + columns]  # [b c, m c]
            total += _phi(joint) @ self.weights[start : start + columns]
        return (total.view(means.shape) * means).sum(dim=1).float()


def _ratios(log_probs: Float[Tensor, "b k c"]) -> tuple[Float[Tensor, "b k c"], Float[Tensor, "b c"]]:
    """p_k / p̄ in [0, k], 1 where p̄ is 0, and p̄."""
    probs = log_probs.softmax(dim=2)  # normalised once more: a rounding error of the sum would appear as information
    means = probs.mean(dim=1)
    return torch.where(means[:, None] > 0, probs / means[:, None].clamp_min(torch.finfo(means.dtype).tiny), 1), means


def _information(ratios: Float[Tensor, "b k c"], means: Float[Tensor, "b c"]) -> Float[Tensor, " b"]:
    """BALD, from the same ratios as EPIG so that the two compare."""
    return (_phi(ratios.clone()).mean(dim=1) * means).sum(dim=1)


def _phi(ratios: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """r log r - r + 1 >= 0; uses up its argument."""
    logs = ratios.clamp_min_(torch.finfo(ratios.dtype).tiny).log()
    return logs.mul_(ratios).sub_(ratios.sub_(1))  # r - 1 is exact near 1, where -r + 1 last would cost seven digits
