"""Intervals of one run: against formulas, published values and simulation."""

import math

import numpy as np
import pytest

from alframe.report.statistics.single import area_interval, share_interval, slope


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (3, 20), (14, 20), (50, 50), (7, 1000)])
def test_the_interval_of_a_share_is_wilsons(k, n):
    z = 1.959963984540054
    centre, reach = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert share_interval(k, n) == pytest.approx((max(0, centre - reach), min(1, centre + reach)))


@pytest.mark.parametrize(("auroc", "m", "n"), [(0.893, 51, 58), (1.0, 8, 60), (0.0, 5, 5), (0.5, 6, 400)])
def test_the_interval_of_an_area_holds_the_areas_within_their_own_errors(auroc, m, n):
    a = np.linspace(0, 1, 200_001)
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    both = (m + n) / 2 - 1  # for either of the two terms of Hanley and McNeil's variance
    variance = (a * (1 - a) + both * (q1 - a * a) + both * (q2 - a * a)) / (m * n)
    inside = a[np.abs(a - auroc) <= 1.959964 * np.sqrt(np.maximum(variance, 0))]
    assert area_interval(auroc, m, n) == pytest.approx((inside[0], inside[-1]), abs=1e-5)


def test_few_defects_or_few_others_have_no_interval():
    assert area_interval(0.9, 4, 100) is None
    assert area_interval(0.9, 100, 4) is None


def test_the_interval_of_an_area_holds_the_true_one_about_as_often_as_it_says():
    rng, true = np.random.default_rng(0), 0.8555778168267576  # of two normal distributions, 1.5 apart
    defects, normal = rng.normal(1.5, 1, (1500, 15)), rng.normal(0, 1, (1500, 60))
    found = (defects[:, :, None] > normal[:, None]).mean((1, 2))
    held = [low <= true <= high for low, high in (area_interval(area, 15, 60) for area in found)]
    assert 0.92 <= np.mean(held) <= 0.99


def test_the_slope_is_what_twice_the_labels_bring():
    labels = [10.0, 20.0, 40.0, 80.0, 160.0]
    by, (low, high) = slope(labels, [0.0, 0.5, 0.6, 0.7, 0.8])  # the first rounds do not count
    assert (by, low, high) == pytest.approx((0.1, 0.1, 0.1))
    values = [0.5, 0.62, 0.66, 0.8, 0.83, 0.84, 0.90, 0.86]
    labels = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0]
    by, (low, high) = slope(labels, values)
    x, y = np.log2(labels[-4:]), np.array(values[-4:])
    expected = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    rest = y - y.mean() - expected * (x - x.mean())
    error = math.sqrt((rest**2).sum() / 2 / ((x - x.mean()) ** 2).sum())
    assert by == pytest.approx(expected)
    assert (low, high) == pytest.approx((expected - 4.302653 * error, expected + 4.302653 * error), rel=1e-6)
    assert slope(labels[:3], values[:3]) is None
    assert slope([10.0] * 5, values[:5]) is None
