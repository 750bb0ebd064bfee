"""Ranks against scipy, and Nemenyi against Demsar's table."""

import numpy as np
import pytest
from scipy import stats

from alframe.report.statistics.pairwise import average_ranks, nemenyi


@pytest.mark.parametrize(("k", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_has_the_published_constants(k, q):
    """Demsar 2006, table 5a, at 5 %."""
    assert nemenyi(14, k) == pytest.approx(q * np.sqrt(k * (k + 1) / (6 * 14)), abs=2e-3)


def test_the_example_of_demsar_2006():
    """Table 6: C4.5 and its variants on 14 data sets; average ranks 3.143, 2.000, 2.893, 1.964, Friedman 9.28.

    On the thirteenth it prints equal figures for the last two, and ranks them 2 and 3: they differ in a digit not printed.
    """
    scores = np.array([
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9752, 0.975], [0.957, 0.978, 0.946, 0.970],
    ])  # fmt: skip
    found = average_ranks(["c45", "c45_m", "c45_cf", "c45_m_cf"], scores)
    assert dict(zip(found.names, found.means, strict=True)) == pytest.approx(
        {"c45": 3.143, "c45_m": 2.000, "c45_cf": 2.893, "c45_m_cf": 1.964}, abs=1e-3
    )
    assert found.names[0] == "c45_m_cf"
    assert found.p == pytest.approx(stats.chi2.sf(9.28, 3), abs=0.01)
    assert found.critical_difference == pytest.approx(1.25, abs=0.01)
    assert found.groups == ((0, 3),)


def test_groups_are_the_longest_runs_that_are_not_distinguished():
    scores = np.tile(np.arange(6.0)[::-1], (30, 1))
    found = average_ranks(list("abcdef"), scores)
    assert found.means == (1, 2, 3, 4, 5, 6)
    assert 1 < found.critical_difference < 2
    assert found.groups == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))


def test_equal_scores_are_ties_and_no_nan():
    found = average_ranks(list("abc"), np.full((4, 3), 0.5))
    assert found.means == (2, 2, 2)
    assert found.p == 1.0
