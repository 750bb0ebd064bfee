"""What so many seeds can show, against simulated tests and by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from alframe.report.statistics.curves import Against
from alframe.report.statistics.paired import Difference, choose_test, paired_t, sign_flip
from alframe.report.statistics.power import pooled_sd, power_of, seeds_to_show, visible_effect


@pytest.mark.parametrize(("n", "n_tests"), [(3, 1), (3, 8), (5, 4), (7, 20), (8, 2), (10, 8), (12, 1), (13, 40)])
def test_what_is_visible_is_shown_in_80_of_100_studies(n, n_tests):
    effect = visible_effect(n, n_tests)
    rows = np.random.default_rng(7).normal(effect, 1.0, (4000, n))
    test = sign_flip if choose_test(n, n_tests) == "sign-flip permutation" else paired_t
    shown = (test(rows) * n_tests < 0.05).mean()
    # what is simulated inside has an error of its own, of about 1.3 in 100
    slack = 3 * math.sqrt(0.8 * 0.2 / 4000) + (0.04 if test is sign_flip else 0)
    assert shown == pytest.approx(0.8, abs=slack)


def test_many_seeds_come_to_the_normal_formula():
    quantiles = stats.norm.ppf(1 - 0.025 / 4) + stats.norm.ppf(0.8)
    assert visible_effect(900, 4) == pytest.approx(quantiles / 30, rel=0.01)


def test_the_seeds_that_show_an_effect_are_the_least_that_do():
    for effect, n, n_tests in ((2.0, 3, 4), (0.6, 5, 8), (1.2, 3, 40)):
        seeds = seeds_to_show(effect, n, n_tests)
        assert seeds is not None
        assert visible_effect(seeds, n_tests) <= effect
        assert all(visible_effect(fewer, n_tests) > effect for fewer in range(n + 1, seeds))
    assert seeds_to_show(0.01, 3, 8) is None
    assert seeds_to_show(5.0, 20, 1) == 21


def test_pooled_sd_of_one_difference_is_its_own():
    assert pooled_sd([("random", Difference(5, 0.1, sd=0.02))]) == pytest.approx((0.02, 4))
    both = [("a", Difference(5, 0.1, sd=0.02)), ("b", Difference(3, 0.1, sd=0.05))]
    assert pooled_sd(both) == pytest.approx((math.sqrt((4 * 0.02**2 + 2 * 0.05**2) / 6), 6))


def test_degrees_of_freedom_of_differences_from_one_baseline():
    """The spread of the pooled variance over many studies is that of a chi-square with the degrees that are claimed."""
    rng, n, k = np.random.default_rng(0), 5, 4
    runs = rng.normal(size=(20_000, k + 1, n))
    variances = (runs[:, 1:] - runs[:, :1]).var(axis=2, ddof=1).mean(axis=1)
    _, degrees = pooled_sd([("random", Difference(n, 0.0, sd=1.0))] * k)
    assert 2 * variances.mean() ** 2 / variances.var() == pytest.approx(degrees, rel=0.05)


def against(*differences, n=3) -> dict[str, Against]:
    made = {}
    for i, (mean, p_holm) in enumerate(differences):
        test = Difference(n, mean, p_holm, p_holm, "paired t", sd=0.01)
        made[f"s{i}"] = Against("random", test, Difference(n, mean / 2), "")
    return made


def test_the_largest_difference_that_is_not_shown_is_asked_for():
    (power,) = power_of(against((0.05, 0.2), (-0.02, 0.9), (0.4, 0.01)))
    assert (power.where, power.n, power.n_tests) == ("end", 3, 3)
    assert power.visible == pytest.approx(visible_effect(3, 3) * 0.01)
    assert power.interval[0] < power.visible < power.interval[1]
    assert power.open_difference == 0.05
    assert power.open_seeds == seeds_to_show(5.0, 3, 3)
    assert power_of(against((0.4, 0.01)))[0].open_difference is None
    assert power_of({}) == []
    assert power_of({"a": Against("random", Difference(2, 0.1), Difference(2, 0.1), "")}) == []
