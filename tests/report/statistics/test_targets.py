"""Labels to a target: crossings by hand, bounds where a seed never gets there, and what is saved."""

import math

import numpy as np
import pytest
from scipy import stats

from alframe.report.statistics.curves import Curve
from alframe.report.statistics.targets import labels_needed, saved

LABELS = np.array([100.0, 110.0, 130.0])
INF = math.inf


def curve(values, seeds=None) -> Curve:
    values = np.array(values, dtype=float)
    return Curve("a", tuple(seeds or range(len(values))), LABELS, values)


@pytest.mark.parametrize(
    ("values", "bounds"),
    [
        ((0.5, 0.6, 0.8), (120, 120)),  # half way between 110 and 130
        ((0.5, 0.75, 0.6), (108, 108)),  # the first crossing, though it falls again
        ((0.5, 0.7, 0.9), (110, 110)),
        ((0.7, 0.6, 0.8), (0, 100)),  # there from the start: at most these
        ((0.5, 0.6, 0.69), (130, INF)),  # never: more than these
    ],
)
def test_labels_where_a_curve_crosses_the_target(values, bounds):
    assert labels_needed(LABELS, np.array([values]), 0.7, False)[0] == pytest.approx(bounds)
    # a loss is the same upside down
    assert labels_needed(LABELS, 1 - np.array([values]), 0.3, True)[0] == pytest.approx(bounds)


def test_the_baseline_reaches_its_own_mean_in_spite_of_rounding():
    values = np.random.default_rng(0).random((7, 3)).cumsum(axis=1)
    mean = values.mean(axis=0)
    assert np.isfinite(labels_needed(LABELS, mean[None], float(np.sum(values[:, -1]) / 7), False)).all()


def test_labels_saved_are_paired_by_seed_with_an_interval():
    random = curve([[0.5, 0.6, 0.8], [0.5, 0.7, 0.9], [0.4, 0.6, 0.7]])  # 120, 110, 130
    better = curve([[0.5, 0.7, 0.9], [0.5, 0.9, 0.9], [0.4, 0.7, 0.8]], seeds=(0, 1, 2))  # 110, 105, 110
    found = saved(better, random, 0.7, False)
    by_seed = np.array([10.0, 5.0, 20.0])
    assert found.is_known
    assert found.low == pytest.approx(by_seed.mean())
    assert found.share == pytest.approx(by_seed.mean() / 120)
    assert found.interval == pytest.approx(stats.t.interval(0.95, 2, by_seed.mean(), stats.sem(by_seed)))
    assert saved(random, better, 0.7, False).low == pytest.approx(-by_seed.mean())


def test_a_seed_that_never_gets_there_leaves_a_bound():
    never, reached = curve([[0.5, 0.6, 0.6], [0.5, 0.6, 0.8]]), curve([[0.5, 0.7, 0.9], [0.5, 0.7, 0.9]])
    found = saved(reached, never, 0.7, False)
    assert (found.n, found.n_both, found.interval, found.is_known) == (2, 1, None, False)
    assert (found.low, found.high) == (pytest.approx((20 + 10) / 2), INF)
    other_way = saved(never, reached, 0.7, False)
    assert (other_way.low, other_way.high) == (-INF, pytest.approx(-15))
    assert saved(never, never, 0.7, False).n_both == 1


def test_where_no_seed_is_common_only_the_mean_curves_speak():
    found = saved(curve([[0.5, 0.7, 0.9]], seeds=(1,)), curve([[0.5, 0.6, 0.8]], seeds=(2,)), 0.7, False)
    assert (found.n, found.of_means, found.share) == (0, pytest.approx(10), None)
