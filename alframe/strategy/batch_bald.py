"""A batch that is informative as a whole: the largest mutual information between its labels, taken together, and the posterior draw."""

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from alframe.engine.distances import full_precision, rows_within
from alframe.engine.lazy_greedy import lazy_greedy
from alframe.errors import expect
from alframe.scores import bald
from alframe.strategy.base import Strategy
from alframe.strategy.stochastic import sample
from alframe.types import Prediction, Selection, Summary, Views

_ROWS = 1024  # configurations multiplied at once: the products stay in the cache
_PRODUCT_BYTES = 1 << 23
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
            f"Expected strategy.max_configurations of at least 1, got {self.max_configurations}; 10000 is the default.",
        )

    def summarize(self, prediction: Prediction) -> Summary:
        return {"log_probs": prediction.log_probs}

    def select(self, views: Views, size: int, generator: torch.Generator) -> Selection:
        log_probs = views.pool["log_probs"]
        joint = _Joint(log_probs, self.max_configurations, views.max_bytes, generator)
        scores = bald(log_probs)
        with full_precision():
            picked, gains = lazy_greedy(
                scores + _ROUNDING, joint.gains, joint.take, size, generator, at_least=_ROUNDING
            )
        if len(picked) < size:
            warnings.warn(
                f"The batch saturates: {len(picked)} picks hold {sum(gains):.2f} of log {joint.k} = {math.log(joint.k):.2f} nats that "
                f"{joint.k} draws can tell; the other {size - len(picked)} are drawn by PowerBALD (more draws, or strategy=power_bald).",
                stacklevel=2,
            )
            left = torch.ones(views.n, dtype=torch.bool, device=scores.device)
            left[picked] = False
            rest = left.nonzero().squeeze(1)
            drawn = sample(scores[rest], size - len(picked), "power", 1.0, generator)
            picked += rest[drawn].tolist()
            gains += [0.0] * len(drawn)
        return Selection(torch.tensor(picked), torch.tensor(gains), "information_gain")


class _Joint:
    """The labels that the picked images may get: how probable they are, and what each would leave of the draws.

    `weights` [m] sums to 1 over configurations; `draws` [m, k] is the posterior over draws given each, its rows sum to 1. So no
    product of probabilities is ever stored, and a long batch does not underflow.
    """

    def __init__(
        self, log_probs: Float[Tensor, "n k c"], max_configurations: int, max_bytes: int, generator: torch.Generator
    ) -> None:
        self.log_probs = log_probs
        self.k = log_probs.shape[1]
        self.max_configurations = max_configurations
        self.max_bytes = min(max_bytes, _PRODUCT_BYTES)
        self.generator = generator
        self.weights = torch.ones(1, dtype=torch.float64, device=log_probs.device)
        self.draws = torch.full((1, self.k), 1 / self.k, dtype=torch.float64, device=log_probs.device)

    def gains(self, positions: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """What each image would add, in nats: sum over configurations of weight (H[draws @ p] - draws @ H[p])."""
        c, item = self.log_probs.shape[2], self.draws.element_size()
        chunk = rows_within(self.max_bytes, (2 * min(_ROWS, len(self.draws)) + 3 * self.k) * c * item)
        return torch.cat([self._gains(part) for part in positions.split(chunk)])

    def _gains(self, positions: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        probs = self._probs(positions)
        b, k, c = probs.shape
        columns = probs.to(self.draws.dtype).permute(1, 0, 2).reshape(k, b * c)
        entropy = probs.new_zeros(b * c)
        for weights, draws in zip(self.weights.split(_ROWS), self.draws.split(_ROWS), strict=True):
            predicted = (draws @ columns).clamp_min_(torch.finfo(columns.dtype).tiny)  # 0 log 0 = 0
            entropy -= weights.to(predicted) @ predicted.log().mul_(predicted)
        of_draws = torch.special.entr(probs).sum(dim=2) @ (self.weights @ self.draws.double())
        return entropy.view(b, c).sum(dim=1) - of_draws

    def take(self, position: int) -> bool:
        """Let the image's label join the configurations; whether the draws are all but told apart."""
        probs = self._probs(torch.tensor([position], device=self.log_probs.device))[0]
        joint = self.weights[:, None] * (self.draws.double() @ probs)  # [m, c]: each configuration with each label
        chosen = joint.flatten().nonzero().squeeze(1)
        weights = joint.flatten()[chosen]
        sampled = len(chosen) > self.max_configurations
        if sampled:
            place = torch.rand(self.max_configurations, dtype=torch.float64, generator=self.generator)
            place = (place + torch.arange(self.max_configurations)) / self.max_configurations  # one in each stratum
            ends = weights.cumsum(dim=0)
            found = torch.searchsorted(ends, place.to(ends.device) * ends[-1], right=True).clamp_max(len(ends) - 1)
            found, counts = found.unique_consecutive(return_counts=True)
            chosen, weights = chosen[found], counts.double()
        draws = self.draws.double()[chosen // joint.shape[1]] * probs.T[chosen % joint.shape[1]]
        draws /= draws.sum(dim=1, keepdim=True)
        left = float(weights @ torch.special.entr(draws).sum(dim=1)) / float(weights.sum())
        self.weights = weights / weights.sum()
        self.draws = draws.float() if sampled or self.draws.dtype == torch.float32 else draws
        return left <= max(_SATURATED * math.log(self.k), _ROUNDING)

    def _probs(self, positions: Int[Tensor, " b"]) -> Float[Tensor, "b k c"]:
        # Normalised again in float64: what float32 leaves of the sum would show up as information.
        return self.log_probs[positions].double().softmax(dim=2)
