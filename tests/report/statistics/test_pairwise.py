"""All pairs and the penalty matrix against loops over scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats

from alframe.report.chapters.pairwise import penalty_table
from alframe.report.statistics.curves import Curve
from alframe.report.statistics.paired import holm
from alframe.report.statistics.pairwise import Pair, pairs, penalty, sum_penalties


def curves_of(k=4, n=5, n_labels=6, seed=0, missing=True) -> dict[str, Curve]:
    rng = np.random.default_rng(seed)
    labels = np.linspace(100, 200, n_labels)
    made = {}
    for i in range(k):
        seeds = tuple(s for s in range(n) if not (missing and i == 1 and s == 0))
        values = 0.5 + 0.03 * i + rng.normal(0, 0.02, (len(seeds), n_labels)).cumsum(axis=1)
        made[f"s{i}"] = Curve(f"s{i}", seeds, labels, values)
    return made


def common(a: Curve, b: Curve, what) -> tuple[np.ndarray, np.ndarray]:
    seeds = [seed for seed in a.seeds if seed in b.seeds]
    return tuple(np.array([what(curve)[curve.seeds.index(seed)] for seed in seeds]) for curve in (a, b))


def test_all_pairs_agree_with_a_loop_and_share_one_correction():
    curves = curves_of()
    found = pairs(curves)
    assert [(pair.first, pair.second) for pair in found] == list(itertools.combinations(curves, 2))
    p_values = []
    for what, name in ((lambda c: c.finals, "final"), (lambda c: c.areas, "area")):
        for pair in found:
            expected = stats.ttest_rel(*common(curves[pair.first], curves[pair.second], what))
            test = getattr(pair, name)
            assert test.p == pytest.approx(expected.pvalue)
            assert np.sign(test.mean) == np.sign(expected.statistic)
            p_values.append(expected.pvalue)
    tests = [pair.final for pair in found] + [pair.area for pair in found]
    assert [test.p_holm for test in tests] == pytest.approx(holm(p_values))
    assert found[0].final.n == 4


@pytest.mark.parametrize("lower_better", [False, True])
def test_penalty_agrees_with_a_loop_over_label_counts(lower_better):
    curves = curves_of(k=5, n=6, seed=3)
    matrix = penalty(curves, lower_better)
    names = list(curves)
    for i, j in itertools.product(range(5), repeat=2):
        share = 0.0
        for t in range(6):
            if i != j:
                a, b = common(curves[names[i]], curves[names[j]], lambda c, t=t: c.values[:, t])
                test = stats.ttest_rel(a, b)
                share += (test.pvalue < 0.05 and (test.statistic < 0) == lower_better) / 6
        assert matrix[i, j] == pytest.approx(share)
    assert 0 < matrix.sum() < 20


def test_penalties_are_summed_over_the_strategies_that_all_have():
    first, second = np.arange(9.0).reshape(3, 3), np.arange(4.0).reshape(2, 2)
    names, total = sum_penalties([(["a", "b", "c"], first), (["c", "a"], second)])
    assert names == ["a", "c"]
    assert total.tolist() == [[0 + 3, 2 + 2], [6 + 1, 8 + 0]]
    assert penalty_table(names, np.array([[0, 0.5], [1.0, 0]]), 2).rows[-1] == ("column mean", "0.50", "0.25")


def test_one_strategy_has_no_pairs():
    assert pairs(curves_of(k=1)) == []


def test_forty_strategies_are_780_pairs_of_one_family():
    found = pairs(curves_of(k=40, n=12, missing=False))
    assert len(found) == 780
    assert found[0].final.test == "paired t"  # 12 seeds are too few flips for 1,560 tests
    assert all(isinstance(pair, Pair) and pair.area.p_holm <= 1 for pair in found)
