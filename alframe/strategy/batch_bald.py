"""A jointly informative batch: the largest mutual information between its labels, taken together, and the posterior draw."""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import full_precision, rows_within
from alframe.engine.k_means import k_means
from alframe.engine.lazy_greedy import lazy_greedy
from alframe.errors import expect
from alframe.scores import bald
from alframe.strategy.base import Strategy
from alframe.strategy.stochastic import sample
from alframe.types import PoolView, Prediction, Selection, Summary

_ROWS = 1024  # configurations multiplied at once: the products stay in the cache
_PRODUCT_BYTES = 1 << 23
_GROUPS = 256  # of similar configurations, for cheap first bounds
_ROUNDING = 1e-5  # nats: BALD in float32 is exact to less, and smaller gains count as none
_SATURATED = 0.01  # share of log k that may be left


@dataclass(frozen=True)
class BatchBald(Strategy):
    """Greedy argmax of I[y_1..y_b; draw], the information of a batch: the next image is the one that adds most to those picked.

    The score is what an image added when it was picked, I[y; draw | labels of those before] in nats; for the first that is BALD.
    Given labels y_S of the picked, the draws have weights w_k ~ prod_i p_k(y_i), and the gain is the mean over y_S of
    H[sum_k w_k p_k] - sum_k w_k H[p_k]. All y_S are enumerated while there are at most `max_configurations` of positive
    probability (float64); from then on that many are sampled (float32), the same ones for every candidate.
    k draws hold log k nats. When less than 1 % of that is left, or no image adds more than 1e-5 nats, a warning says so and the
    rest is drawn by PowerBALD with score 0.
    Source: Kirsch, van Amersfoort & Gal 2019, arXiv:1906.08158. Differs: lazily greedy, as a gain can only shrink (exactly so while
    enumerated, up to sampling noise later); sampled labels grow with the batch, stratified and merged where equal, in place of new
    ones for each pick; both entropies use the same labels, so that a sampled gain is never negative; stops at log k.
    """

    max_configurations: int = 10_000

    min_draws = 2

    def __post_init__(self) -> None:
        expect(
            self.max_configurations >= 1,
            f"Expected max_configurations of at least 1, got {self.max_configurations}; 10000 is the default.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        return {"log_probs": prediction.log_probs}

    def select(self, view: PoolView, size: int, generator: torch.Generator) -> Selection:
        log_probs = view.pool["log_probs"]
        joint = _Joint(log_probs, self.max_configurations, view.max_bytes, generator)
        scores = bald(log_probs)
        with full_precision():
            picked, gains = lazy_greedy(
                scores + _ROUNDING,
                joint.gains,
                joint.take,
                size,
                generator,
                at_least=_ROUNDING,
                tighten=joint.bounds,
            )
        if len(picked) < size:
            warnings.warn(
                f"The batch saturates: {len(picked)} picks have {sum(gains):.2f} of log {joint.k} = {math.log(joint.k):.2f} nats that "
                f"{joint.k} draws can provide; the other {size - len(picked)} are drawn by PowerBALD (more draws, or strategy=power_bald).",
                stacklevel=2,
            )
            left = torch.ones(view.n, dtype=torch.bool, device=scores.device)
            left[picked] = False
            rest = left.nonzero().squeeze(1)
            drawn = sample(scores[rest], size - len(picked), "power", 1.0, generator)
            picked += rest[drawn].tolist()
            gains += [0.0] * len(drawn)
        return Selection(torch.tensor(picked), torch.tensor(gains), "information_gain")


class _Joint:
    """The possible labels of the picked images: their probabilities, and the posterior over draws given each.

    `weights` [m] sums to 1, and so do the rows of `draws` [m, k], the posterior given each: a long batch does not underflow.
    """

    def __init__(
        self, log_probs: Float[Tensor, "n k c"], max_configurations: int, max_bytes: int, generator: torch.Generator
    ) -> None:
        self.log_probs = log_probs
        self.k = log_probs.shape[1]
        self.max_configurations = max_configurations
        self.max_bytes = max_bytes
        self.generator = generator
        self.weights = torch.ones(1, dtype=torch.float64, device=log_probs.device)
        self.draws = torch.full((1, self.k), 1 / self.k, dtype=torch.float64, device=log_probs.device)
        self.groups: tuple[Tensor, Tensor] | None = None

    def gains(self, positions: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The gain of each image, in nats."""
        return self._information(positions, self.weights, self.draws)

    def bounds(self, positions: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """A cheap upper bound of the gain: H is concave, so similar configurations can be replaced by their mean."""
        if self.groups is None:
            return torch.full(positions.shape, torch.inf, device=positions.device)
        return self._information(positions, *self.groups) + _ROUNDING

    def take(self, position: int) -> bool:
        """Add the image's label to the configurations; returns whether the draws are nearly identified."""
        probs = self.log_probs[position].double().softmax(dim=1)
        joint = self.weights[:, None] * (self.draws.double() @ probs)  # [m, c]: each configuration with each label
        chosen = joint.flatten().nonzero().squeeze(1)
        weights = joint.flatten()[chosen]
        sampled = len(chosen) > self.max_configurations
        if sampled:
            found, weights = _sample(weights, self.max_configurations, self.generator)
            chosen = chosen[found]
        draws = self.draws.double()[chosen // joint.shape[1]] * probs.T[chosen % joint.shape[1]]
        draws /= draws.sum(dim=1, keepdim=True)
        self.weights = weights / weights.sum()
        self.draws = draws.float() if sampled or self.draws.dtype == torch.float32 else draws
        self._group()
        left = float(self.weights @ torch.special.entr(draws).sum(dim=1))
        return left <= max(_SATURATED * math.log(self.k), _ROUNDING)

    def _group(self) -> None:
        self.groups = None
        if len(self.draws) <= 4 * _GROUPS:
            return
        roots = self.draws.float().sqrt()  # their distances are Hellinger distances
        seeds = torch.Generator().manual_seed(0)  # any: groups change the speed only
        labels = k_means(
            roots, _GROUPS, seeds, weights=self.weights.float(), max_iterations=3, max_bytes=self.max_bytes
        ).labels
        weights = self.weights.new_zeros(_GROUPS).index_add_(0, labels, self.weights)
        draws = self.draws.new_zeros(_GROUPS, self.k, dtype=torch.float64)
        draws.index_add_(0, labels, self.weights[:, None] * self.draws)
        used = weights > 0
        self.groups = weights[used], (draws[used] / weights[used, None]).float()

    def _information(
        self, positions: Int[Tensor, " b"], weights: Float[Tensor, " m"], draws: Float[Tensor, "m k"]
    ) -> Float[Tensor, " b"]:
        """sum_m weights (H[draws @ p] - draws @ H[p]), in the precision of `draws`."""
        k, c = self.log_probs.shape[1:]
        chunk = rows_within(
            min(self.max_bytes, _PRODUCT_BYTES), (2 * min(_ROWS, len(draws)) + 3 * k) * c * draws.element_size()
        )
        prior = (weights @ draws.double()).to(draws)
        gains = []
        for part in positions.split(chunk):
            # Normalised once more: a rounding error of the sum would appear as information.
            probs = self.log_probs[part].to(draws.dtype).softmax(dim=2)
            columns = probs.permute(1, 0, 2).reshape(k, -1)
            entropy = columns.new_zeros(columns.shape[1])
            for some_weights, some_draws in zip(weights.split(_ROWS), draws.split(_ROWS), strict=True):
                predicted = (some_draws @ columns).clamp_min_(torch.finfo(draws.dtype).tiny)  # 0 log 0 = 0
                entropy -= some_weights.to(draws) @ predicted.log().mul_(predicted)
            gains.append(entropy.view(-1, c).sum(dim=1) - torch.special.entr(probs).sum(dim=2) @ prior)
        return torch.cat(gains)


def _sample(
    weights: Float[Tensor, " m"], size: int, generator: torch.Generator
) -> tuple[Int[Tensor, " u"], Float[Tensor, " u"]]:
    """Stratified sampling: `size` positions in proportion to `weights`, as distinct positions and how often each came."""
    one_each = torch.arange(size) + torch.rand(size, dtype=torch.float64, generator=generator)
    place = one_each / size
    ends = weights.cumsum(dim=0)
    found = torch.searchsorted(ends, place.to(ends.device) * ends[-1], right=True).clamp_max(len(ends) - 1)
    positions, counts = found.unique_consecutive(return_counts=True)
    return positions, counts.double()
