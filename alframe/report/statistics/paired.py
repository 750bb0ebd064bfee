"""Tests and intervals of differences paired by seed. Plain numpy and scipy; knows no files, curves or strategies.

Which test: Student's paired t below `PERMUTATION_SEEDS` common seeds. From there on the sign-flip permutation test, which does
not assume normal differences, if its p-values are fine enough for the correction (`choose_test`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from scipy.special import gammaln

LEVEL = 0.05
MIN_SEEDS = 3
"""With fewer common seeds there is no test and no interval."""
PERMUTATION_SEEDS = 8
EXACT_SEEDS = 16
"""Up to this many seeds all sign flips are enumerated, beyond it `N_FLIPS` are drawn."""
N_FLIPS = 2**16 - 1
MIN_STEPS = 3
PAIRED_T, SIGN_FLIP = "paired t", "sign-flip permutation"


@dataclass(frozen=True)
class Difference:
    """`this - other`, paired by seed: the mean over `n` common seeds, and its test.

    `p` is two-sided, from the test named `test`; `p_holm` is corrected for all tests of its family. Both are None if not tested
    (below `MIN_SEEDS` seeds, or the same difference in all of them). `interval` is the uncorrected 95 % t-interval of the mean;
    `effect` is Hedges' g of paired differences: mean / sd, corrected for few seeds.
    """

    n: int
    mean: float
    p: float | None = None
    p_holm: float | None = None
    test: str = ""
    sd: float | None = None
    interval: tuple[float, float] | None = None
    effect: float | None = None

    @property
    def is_shown(self) -> bool:
        """Whether the difference is significant at `LEVEL` after correction."""
        return self.p_holm is not None and self.p_holm < LEVEL


def compare_paired(rows: Float[np.ndarray, "m s"]) -> list[Difference]:
    """A `Difference` for each row of `this - other` by seed (NaN where a seed is missing); one family, one Holm correction."""
    counts = (~np.isnan(rows)).sum(axis=1)
    packed = [row[~np.isnan(row)] for row in rows]
    testable = np.array([len(row) >= MIN_SEEDS and _varied(row) for row in packed], dtype=bool)
    found = [_described(row) for row in packed]
    for n in sorted(set(counts[testable].tolist())):
        chosen = np.flatnonzero(testable & (counts == n))
        test = choose_test(n, int(testable.sum()))
        p_values = (sign_flip if test == SIGN_FLIP else paired_t)(np.stack([packed[i] for i in chosen]))
        for i, p in zip(chosen, p_values, strict=True):
            found[i] = replace(found[i], p=float(p), test=test)
    tested = [i for i, one in enumerate(found) if one.p is not None]
    for place, p in zip(tested, holm([p for one in found if (p := one.p) is not None]), strict=True):
        found[place] = replace(found[place], p_holm=p)
    return found


def choose_test(n: int, n_tests: int) -> str:
    """The test for `n` common seeds in a family of `n_tests`.

    n seeds have 2^n sign flips, so the smallest two-sided p is 2^(1-n): 0.0078 for 8 seeds, which Holm's first step turns into
    more than 0.05 when there are more than 6 tests. Then the permutation test could show nothing, whatever the data. With
    only one or two p-values below the corrected level it shows less at 9 seeds than the t-test at 8. It is used from
    `MIN_STEPS` such p-values on. The choice depends on the numbers of seeds and tests, never on the values, so it costs no level.
    """
    step = 2.0 ** (1 - n) if n <= EXACT_SEEDS else 1 / (N_FLIPS + 1)
    return SIGN_FLIP if n >= PERMUTATION_SEEDS and MIN_STEPS * step * n_tests < LEVEL else PAIRED_T


def paired_t(differences: Float[np.ndarray, "m s"]) -> Float[np.ndarray, " m"]:
    """Two-sided p-values of Student's t-test that the mean of each row is 0."""
    return np.asarray(stats.ttest_1samp(differences, 0.0, axis=1).pvalue)


def sign_flip(differences: Float[np.ndarray, "m s"]) -> Float[np.ndarray, " m"]:
    """Two-sided p-values of the sign-flip permutation test: the share of flips whose |sum| is at least the observed one.

    Exact up to `EXACT_SEEDS` seeds; beyond, (1 + hits) / (1 + `N_FLIPS`) over a fixed stream of flips, which keeps the level
    too. Source: Fisher 1935, The Design of Experiments; Phipson and Smyth 2010, arXiv:1603.05766, for the 1 that is added.
    """
    signs, n_unseen = flips(differences.shape[1])
    p_values = np.empty(len(differences))
    for i in range(0, len(differences), 64):  # 64 rows and all flips: 32 MB
        part = differences[i : i + 64]
        seen = np.abs(part.sum(axis=1))
        # sums that are equal up to rounding are ties, and ties count
        slack = 1e-9 * np.abs(part).sum(axis=1)
        hits = (np.abs(signs @ part.T) >= seen - slack).sum(axis=0)
        p_values[i : i + 64] = (hits + n_unseen) / (len(signs) + n_unseen)
    return p_values


@lru_cache(maxsize=4)
def flips(n: int) -> tuple[Float[np.ndarray, "f n"], int]:
    """Sign flips as rows, and how many hits to add. Exact: the first sign is fixed, as its mirror has the same |sum|."""
    if n > EXACT_SEEDS:
        return np.random.default_rng(0).choice((-1.0, 1.0), size=(N_FLIPS, n)), 1
    bits = np.arange(2 ** (n - 1))[:, None] >> np.arange(n - 1)[None] & 1
    return np.hstack([np.ones((len(bits), 1)), 1.0 - 2.0 * bits]), 0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: the i-th smallest of m is multiplied by m - i + 1, kept in order, at most 1.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    found, m = np.array(p_values, dtype=float), len(p_values)
    order = np.argsort(found, kind="stable")
    found[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(m, 0, -1) * found[order]))
    return found.tolist()


def mean_interval(values: Float[np.ndarray, " s"]) -> tuple[float, float] | None:
    """The 95 % t-interval of the mean; None below `MIN_SEEDS` values, where an interval is meaningless."""
    n = len(values)
    if n < MIN_SEEDS:
        return None
    half = _quantile(n - 1) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


@lru_cache(maxsize=256)
def _quantile(degrees: int) -> float:
    """Student's t that leaves `LEVEL` outside, on both sides together."""
    return float(stats.t.ppf(1 - LEVEL / 2, degrees))


def hedges_correction(degrees: int) -> float:
    """What mean / sd is multiplied by to be unbiased; for 2 degrees of freedom 0.56, for 9 0.91.

    Source: Hedges 1981, Distribution theory for Glass's estimator of effect size.
    """
    return float(np.exp(gammaln(degrees / 2) - gammaln((degrees - 1) / 2)) / math.sqrt(degrees / 2))


def beats(differences: Float[np.ndarray, "m s t"]) -> Bool[np.ndarray, "m t"]:
    """Where the mean over seeds (axis 1, NaN: missing) is above 0 by a two-sided paired t-test at `LEVEL`, uncorrected."""
    m, s, t = differences.shape
    flat = differences.transpose(0, 2, 1).reshape(m * t, s)
    counts = (~np.isnan(flat)).sum(axis=1)
    found = np.zeros(m * t, dtype=bool)
    for n in np.unique(counts[counts >= MIN_SEEDS]):
        chosen = np.flatnonzero(counts == n)
        packed = flat[chosen][~np.isnan(flat[chosen])].reshape(len(chosen), n)
        chosen, packed = chosen[_varied(packed)], packed[_varied(packed)]
        found[chosen] = (paired_t(packed) < LEVEL) & (packed.mean(axis=1) > 0)
    return found.reshape(m, t)


def _described(row: Float[np.ndarray, " s"]) -> Difference:
    n = len(row)
    if n < 2:
        return Difference(n, float(row[0]) if n else math.nan)
    mean, sd = float(row.mean()), float(row.std(ddof=1))
    if n < MIN_SEEDS or not _varied(row):
        return Difference(n, mean, sd=sd)
    return Difference(n, mean, sd=sd, interval=mean_interval(row), effect=hedges_correction(n - 1) * mean / sd)


def _varied(rows: Float[np.ndarray, "*m s"]) -> Bool[np.ndarray, "*m"]:
    # beyond rounding: three equal steps of 1 / n_test would otherwise look like certainty
    return np.asarray(np.ptp(rows, axis=-1) >= 1e-9 * np.maximum(1.0, np.abs(rows).max(axis=-1)))
