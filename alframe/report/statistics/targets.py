"""Labels needed to reach a target, and so the labels saved against the baseline, paired by seed.

A curve reaches the target where its linear interpolation first does. A seed that never reaches it needs more labels than were
bought; one that starts above it needs at most the first label count. Both stay bounds.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from alframe.report.statistics.curves import Curve
from alframe.report.statistics.paired import mean_interval


@dataclass(frozen=True)
class Saved:
    """How many fewer labels than its baseline a strategy needs: a mean over `n` common seeds, in `low`..`high`.

    The two are equal if every seed of both reaches the target (`n_both` of them do), infinite if nothing is known.
    `interval`: the 95 % t-interval of the mean, if known. `of_means`: saved by the mean curves, or None if one of
    them does not cross the target. Shares are of the baseline's labels.
    """

    n: int
    n_both: int
    low: float
    high: float
    share: float | None
    interval: tuple[float, float] | None
    of_means: float | None
    of_means_share: float | None

    @property
    def is_known(self) -> bool:
        return self.low == self.high


def labels_needed(
    labels: Float[np.ndarray, " t"], values: Float[np.ndarray, "s t"], target: float, lower_better: bool
) -> Float[np.ndarray, "s 2"]:
    """The fewest and the most labels that each curve may need: equal if it crosses `target`, else bounds.

    (0, first label count) for a curve above it from the start, (last label count, infinity) for one that never reaches it.
    """
    sign = -1.0 if lower_better else 1.0
    gap = sign * (values - target)
    there = gap >= -1e-12 * max(1.0, abs(target))  # the mean reaches its own final value in spite of rounding
    needed = np.empty((len(values), 2))
    for row, (above, by_count) in enumerate(zip(gap, there, strict=True)):
        i = int(by_count.argmax())
        if not by_count.any():
            needed[row] = labels[-1], np.inf
        elif i == 0:
            needed[row] = 0.0, labels[0]
        else:
            share = min(1.0, above[i - 1] / (above[i - 1] - above[i]))
            needed[row] = labels[i - 1] + share * (labels[i] - labels[i - 1])
    return needed


def saved(this: Curve, baseline: Curve, target: float, lower_better: bool) -> Saved:
    """The labels that `this` saves against `baseline`, paired over their common seeds."""
    common = [seed for seed in this.seeds if seed in baseline.seeds]
    mine, theirs = (
        labels_needed(curve.labels, curve.values[[curve.seeds.index(s) for s in common]], target, lower_better)
        for curve in (this, baseline)
    )
    own, other = (labels_needed(c.labels, c.mean[None], target, lower_better)[0] for c in (this, baseline))
    of_means = float(other[0] - own[0]) if own[0] == own[1] and other[0] == other[1] else None
    of_means_share = of_means / float(other[0]) if of_means is not None and other[0] else None
    if not common:
        return Saved(0, 0, -np.inf, np.inf, None, None, of_means, of_means_share)
    bounds = np.stack([theirs[:, 0] - mine[:, 1], theirs[:, 1] - mine[:, 0]], axis=1)
    exact = bounds[:, 0] == bounds[:, 1]
    low, high = (float(edge) for edge in bounds.mean(axis=0))
    if not exact.all():
        return Saved(len(common), int(exact.sum()), low, high, None, None, of_means, of_means_share)
    needed = float(theirs.mean())
    share = low / needed if needed else None
    return Saved(len(common), len(common), low, low, share, mean_interval(bounds[:, 0]), of_means, of_means_share)
