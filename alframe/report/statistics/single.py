"""Intervals for the numbers of one run: shares, the area under the ROC curve, and the slope of a learning curve."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

LEVEL = 0.95
FEW_POSITIVES = 5
"""A ranking of fewer defects, or fewer normal images, has no interval worth reading."""

Interval = tuple[float, float]


def share_interval(k: int, n: int) -> Interval:
    """The Wilson interval of a share `k` of `n` >= 1, in [0, 1], at 95 %. Source: Wilson 1927; Brown et al. 2001."""
    interval = stats.binomtest(k, n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def area_interval(auroc: float, positives: int, negatives: int) -> Interval | None:
    """A 95 % interval of an AUROC in [0, 1] from the two numbers of images; None below `FEW_POSITIVES` of either.

    The areas that lie within 1.96 of their own standard errors of the one found, so that areas of 0 and 1 have an interval too.
    Source: method 5 of Newcombe 2006, Statistics in Medicine 25, 559, with the variance of Hanley and McNeil 1982.
    """
    if min(positives, negatives) < FEW_POSITIVES:
        return None
    z, n = float(stats.norm.ppf((1 + LEVEL) / 2)), (positives + negatives) / 2

    def beyond(a: float) -> float:
        variance = a * (1 - a) * (1 + (n - 1) * ((1 - a) / (2 - a) + a / (1 + a))) / (positives * negatives)
        return abs(a - auroc) - z * math.sqrt(max(variance, 0.0))

    tiny = 1e-9  # at 0 and 1 the variance is 0 too
    low = 0.0 if auroc <= tiny else float(optimize.brentq(beyond, 0.0, auroc - tiny))
    high = 1.0 if auroc >= 1 - tiny else float(optimize.brentq(beyond, auroc + tiny, 1.0))
    return low, high


def slope(labels: Sequence[float], values: Sequence[float]) -> tuple[float, Interval] | None:
    """What twice the labels bring: the slope of the values (of one run, in time order) over log2 of the labels, with its 95 % interval.

    By least squares through the later half of the rounds, at least four; None if there are fewer, or all at one label count.
    """
    n = max(4, math.ceil(len(labels) / 2))
    x, y = np.log2(np.maximum(labels[-n:], 1)), np.asarray(values[-n:], dtype=float)
    if len(labels) < n or np.ptp(x) == 0:
        return None
    fit = stats.linregress(x, y)
    reach = stats.t.ppf((1 + LEVEL) / 2, n - 2) * fit.stderr
    return float(fit.slope), (float(fit.slope - reach), float(fit.slope + reach))
