"""Every pair of strategies, paired by seed, pairwise penalties, and average ranks over comparisons. All pairs at once in numpy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from alframe.report.statistics.curves import Curve, by_seed, differences
from alframe.report.statistics.paired import LEVEL, Difference, beats


@dataclass(frozen=True)
class Pair:
    """`first - second`, at the last label count and in area; corrected over all pairs of the comparison."""

    first: str
    second: str
    final: Difference
    area: Difference


def pairs(curves: dict[str, Curve]) -> list[Pair]:
    """All pairs of cells, in the order of `curves`; one Holm correction over all their tests."""
    names = list(curves)
    if len(names) < 2:
        return []
    i, j = (places.tolist() for places in np.triu_indices(len(names), k=1))
    return [Pair(names[a], names[b], *both) for a, b, both in zip(i, j, differences(curves, i, j), strict=True)]


def penalty(curves: dict[str, Curve], lower_better: bool) -> Float[np.ndarray, "k k"]:
    """Entry (i, j): the share of label counts, in [0, 1], at which strategy i beats j by a paired t-test at 5 %.

    Two-sided and uncorrected, as published. Source: Ash et al. 2020, arXiv:1906.03671, section 4. Differs: paired over any
    number of common seeds (five there); below three, or with equal differences, no strategy beats another.
    """
    table = by_seed(curves, "values") * (-1 if lower_better else 1)
    matrix = np.zeros((len(curves), len(curves)))
    for i in range(len(curves)):  # a row at a time: 40 strategies x 20 seeds x 100 counts need 640 kB
        matrix[i] = beats(table[i] - table).mean(axis=1)
    return matrix


def sum_penalties(
    matrices: Sequence[tuple[Sequence[str], Float[np.ndarray, "_ _"]]],
) -> tuple[list[str], Float[np.ndarray, "n n"]]:
    """The penalties of several comparisons, summed over the strategies that all of them share."""
    names = [name for name in matrices[0][0] if all(name in others for others, _ in matrices)]
    total = np.zeros((len(names), len(names)))
    for own, matrix in matrices:
        places = [list(own).index(name) for name in names]
        total += matrix[np.ix_(places, places)]
    return names, total


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
    groups: list[tuple[int, int]] = []
    for first in range(k):
        last = int(np.flatnonzero(sorted_means - sorted_means[first] <= critical).max())
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return Ranks(
        names=tuple(names[i] for i in order),
        means=tuple(float(mean) for mean in sorted_means),
        n=n,
        p=p,
        critical_difference=critical,
        groups=tuple(groups),
    )


def nemenyi(n: int, k: int, level: float = LEVEL) -> float:
    """The critical difference of mean ranks of `k` strategies over `n` comparisons: q sqrt(k (k + 1) / (6 n))."""
    q = float(stats.studentized_range.ppf(1 - level, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))
