"""Average ranks of strategies over comparisons, tested by Friedman and Nemenyi.

Source: Demsar 2006, Statistical comparisons of classifiers over multiple data sets, JMLR 7.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from alframe.report.statistics.paired import LEVEL


@dataclass(frozen=True)
class Ranks:
    """Mean ranks over `n` comparisons, the best first; 1 is the best rank, ties share their rank.

    `p` is Friedman's, for no difference at all. Two strategies differ (Nemenyi, at 5 %) if their mean ranks are more than
    `critical_difference` apart; `groups` are the longest runs of places (first, last) without such a pair.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    n: int
    p: float
    critical_difference: float
    groups: tuple[tuple[int, int], ...]


def average_ranks(names: Sequence[str], scores: Float[np.ndarray, "n k"]) -> Ranks:
    """Ranks of `scores`, one row per comparison, higher is better; equal scores share the mean of their ranks."""
    n, k = scores.shape
    # differences below the rounding are ties
    ranks = stats.rankdata(-np.round(scores, 9), axis=1)
    tied = bool((ranks == ranks[:, :1]).all())
    p = 1.0 if tied else float(stats.friedmanchisquare(*ranks.T).pvalue)
    means = ranks.mean(axis=0)
    order = np.argsort(means, kind="stable")
    sorted_means = means[order]
    critical = nemenyi(n, k)
    return Ranks(
        names=tuple(names[i] for i in order),
        means=tuple(float(mean) for mean in sorted_means),
        n=n,
        p=p,
        critical_difference=critical,
        groups=_groups(sorted_means, critical),
    )


def nemenyi(n: int, k: int, level: float = LEVEL) -> float:
    """The critical difference of mean ranks of `k` strategies over `n` comparisons: q sqrt(k (k + 1) / (6 n))."""
    q = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def _groups(means: Float[np.ndarray, " k"], critical: float) -> tuple[tuple[int, int], ...]:
    """Longest runs of two or more places within `critical`, none inside another."""
    found: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = int(np.flatnonzero(means - means[first] <= critical).max())
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return tuple(found)
