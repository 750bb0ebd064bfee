"""The power of a comparison: the smallest difference that its seeds show with 80 % power, and the seeds that a smaller one needs.

The spread is that of the differences paired by seed, pooled over the strategies. The level is that of the first step of
Holm's correction, 0.05 / tests. Differences are taken to be normal; docs/statistics.md shows what follows from that.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from alframe.report.statistics.curves import Against
from alframe.report.statistics.paired import EXACT_SEEDS, LEVEL, SIGN_FLIP, Difference, choose_test, flips

POWER = 0.8
MAX_SEEDS = 1000
COARSE = 10
"""A permutation test with fewer possible p-values below its level is simulated, not approximated by a t-test."""


@dataclass(frozen=True)
class Power:
    """What `n` seeds can show at one place of the curve (`where`: end or area), in the metric's unit; `n` is the most common count.

    `visible` is shown with 80 % power; `interval` is its 95 % interval, as the spread is itself estimated (chi-square).
    `open_difference` is the largest observed difference that is not significant, or None; `open_seeds` is the total number of
    seeds that would show it, if it is real. `finer` is two thirds of `visible`, `finer_seeds` what it needs. None: above 1,000.
    """

    where: str
    n: int
    n_tests: int
    sd: float
    visible: float
    interval: tuple[float, float]
    open_difference: float | None
    open_seeds: int | None
    finer: float
    finer_seeds: int | None


def power_of(against: dict[str, Against]) -> list[Power]:
    """The power at the end and in area, over the tests that were made; empty without any."""
    both = {
        "end": [(one.baseline, one.final) for one in against.values()],
        "area": [(one.baseline, one.area) for one in against.values()],
    }
    tested = {where: [pair for pair in pairs if pair[1].p_holm is not None] for where, pairs in both.items()}
    n_tests = sum(map(len, tested.values()))
    return [_power(where, pairs, n_tests) for where, pairs in tested.items() if pairs]


def pooled_sd(differences: Sequence[tuple[str, Difference]]) -> tuple[float, float]:
    """The standard deviation pooled over (baseline, difference), and its degrees of freedom.

    Differences from one baseline share its noise: where all strategies spread alike, two of them correlate by 1/2, and their
    variances by 1/4. The degrees of freedom are those of a chi-square with the pooled variance's spread (Satterthwaite 1946).
    """
    degrees = np.array([one.n - 1 for _, one in differences], dtype=float)
    weights = degrees / degrees.sum()
    variance = float(weights @ np.array([(one.sd or 0.0) ** 2 for _, one in differences]))
    spread = float(weights**2 @ (1 / degrees))
    for i, j in combinations(range(len(differences)), 2):
        if differences[i][0] == differences[j][0]:
            spread += 2 * weights[i] * weights[j] * 0.25 / max(degrees[i], degrees[j])
    return math.sqrt(variance), 1 / spread


@lru_cache(maxsize=1024)
def visible_effect(n: int, n_tests: int, power: float = POWER) -> float:
    """The smallest mean difference, in standard deviations of the paired differences, that `n` seeds show with `power`.

    Shown means at 0.05 / `n_tests`, with the test that `choose_test` picks. The t-test's power comes from the noncentral t distribution.
    A permutation test has few p-values: its level is the largest below, and with very few its power is simulated.
    """
    if choose_test(n, n_tests) != SIGN_FLIP or n > EXACT_SEEDS:
        return _visible_to_t(n, LEVEL / n_tests, power)
    n_below = math.ceil(LEVEL / n_tests * 2 ** (n - 1)) - 1  # strictly below the level, as for a verdict
    by_t = _visible_to_t(n, n_below / 2 ** (n - 1), power)
    return _visible_to_flips(n, n_below, power, by_t) if n_below < COARSE else by_t


def seeds_to_show(effect: float, n: int, n_tests: int) -> int | None:
    """The smallest number of seeds above `n` that shows `effect` (in standard deviations) with 80 % power; None above 1,000."""
    for more in range(n + 1, EXACT_SEEDS + 2):
        # no test shows less than the t-test's bound, which is quick to compute
        if _visible_to_t(more, LEVEL / n_tests, POWER) <= effect and visible_effect(more, n_tests) <= effect:
            return more
    low, high = max(n, EXACT_SEEDS + 1), MAX_SEEDS
    if n >= high or visible_effect(high, n_tests) > effect:
        return None
    seeds = range(low + 1, high + 1)
    return seeds[bisect_left(seeds, True, key=lambda more: visible_effect(more, n_tests) <= effect)]


def _power(where: str, pairs: Sequence[tuple[str, Difference]], n_tests: int) -> Power:
    n = Counter(one.n for _, one in pairs).most_common(1)[0][0]
    sd, degrees = pooled_sd(pairs)
    effect = visible_effect(n, n_tests)
    low, high = (math.sqrt(degrees / stats.chi2.ppf(1 - tail, degrees)) for tail in (LEVEL / 2, 1 - LEVEL / 2))
    open_ones = [abs(one.mean) for _, one in pairs if not one.is_shown and abs(one.mean) > 1e-3 * sd]
    largest = max(open_ones, default=None)
    return Power(
        where=where,
        n=n,
        n_tests=n_tests,
        sd=sd,
        visible=effect * sd,
        interval=(effect * sd * low, effect * sd * high),
        open_difference=largest,
        open_seeds=None if largest is None else seeds_to_show(largest / sd, n, n_tests),
        finer=effect * sd * 2 / 3,
        finer_seeds=seeds_to_show(effect * 2 / 3, n, n_tests),
    )


@lru_cache(maxsize=4096)
def _visible_to_t(n: int, level: float, power: float) -> float:
    degrees, critical = n - 1, float(stats.t.ppf(1 - level / 2, n - 1))

    def missing(effect: float) -> float:
        # with the right sign only: the other tail is far below the accuracy here, and scipy gives NaN in it
        return power - float(stats.nct.sf(critical, degrees, effect * math.sqrt(n)))

    high = 2 * critical / math.sqrt(n)
    while missing(high) > 0:
        high *= 1.5
    return float(brentq(missing, 0.0, high, xtol=1e-6))


def _visible_to_flips(n: int, n_below: int, power: float, start: float, n_draws: int = 1000) -> float:
    """By bisection on the same normal draws: the share of them in which at most `n_below` flips reach the observed sum."""
    signs, _ = flips(n)
    draws, sums = np.random.default_rng(0).standard_normal((n, n_draws)), signs.sum(axis=1)[:, None]
    parts = [signs @ draws[:, i : i + 250] for i in range(0, n_draws, 250)]

    def shown(effect: float) -> float:
        hits = [(np.abs(part + effect * sums) >= np.abs(part[:1] + effect * n) - 1e-9).sum(axis=0) for part in parts]
        return float((np.concatenate(hits) <= n_below).mean())

    low, high = start, 1.2 * start
    while shown(high) < power:
        low, high = high, 1.2 * high
    for _ in range(5):  # to less than 1 %, finer than 1,000 draws resolve
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) >= power else (middle, high)
    return (low + high) / 2
