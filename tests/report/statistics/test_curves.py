"""Curves, bands and tests against naive loops and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from alframe.report.statistics.curves import Curve, against, band, by_seed, lower_is_better, on_grid, thinned, verdict
from alframe.report.statistics.paired import Difference, holm


def curve(name, values, seeds=None, labels=(100, 110, 120)) -> Curve:
    values = np.array(values, dtype=float)
    return Curve(name, tuple(seeds or range(len(values))), np.array(labels, dtype=float), values)


def test_on_grid_cuts_to_the_range_and_interpolates():
    runs = {"a": {0: ([100.0, 120.0], [0.0, 1.0])}, "b": {7: ([90.0, 110.0, 130.0], [0.0, 0.5, 1.0])}}
    curves = on_grid(runs, 100.0, 120.0)
    assert curves["a"].labels.tolist() == [100, 110, 120]
    assert curves["a"].values.tolist() == [[0.0, 0.5, 1.0]]
    assert curves["b"].values.tolist() == [[0.25, 0.5, 0.75]]
    assert curves["b"].seeds == (7,)


def test_area_and_final_of_each_seed():
    one = curve("a", [[0, 1, 1], [0.5, 0.5, 0.5]])
    assert one.areas == pytest.approx([0.75, 0.5])
    assert one.finals == pytest.approx([1.0, 0.5])
    assert one.mean == pytest.approx([0.25, 0.75, 0.75])


def test_differences_are_paired_by_seed_over_the_common_ones():
    this = curve("a", [[0, 0, 0.9], [0, 0, 0.5]], seeds=(2, 5))
    that = curve("b", [[0, 0, 0.4], [0, 0, 0.7], [0, 0, 0.1]], seeds=(5, 2, 9))
    found = against({"a": this, "b": that}, {"a": "b"}, False)["a"].final
    assert found.n == 2
    assert found.mean == pytest.approx(((0.9 - 0.7) + (0.5 - 0.4)) / 2)
    assert found.p is None
    other = curve("c", [[0, 0, 0]], seeds=(1,))
    assert against({"a": this, "c": other}, {"a": "c"}, False)["a"].final.n == 0


def test_seeds_of_all_curves_make_one_table():
    table = by_seed(
        {"a": curve("a", [[0, 0, 3], [0, 0, 1]], seeds=(7, 1)), "b": curve("b", [[0, 0, 2]], seeds=(4,))}, "finals"
    )
    assert np.array_equal(table, [[1, np.nan, 3], [np.nan, 2, np.nan]], equal_nan=True)


def test_pairing_finds_what_the_spread_between_seeds_hides():
    seeds = np.random.default_rng(0).normal(0.6, 0.2, 6)[:, None]
    noise = np.random.default_rng(1).normal(0, 0.002, (6, 3))
    found = against(
        {"random": curve("random", seeds + noise * 0), "a": curve("a", seeds + 0.02 + noise)}, {"a": "random"}, False
    )
    assert found["a"].verdict == "better (end and area)"


def test_one_correction_over_both_columns_and_all_cells():
    rng = np.random.default_rng(3)
    curves = {
        name: curve(name, rng.normal(0.5 + shift, 0.05, (5, 3)))
        for name, shift in (("random", 0), ("a", 0.06), ("b", 0.1))
    }
    found = against(curves, {"a": "random", "b": "random"}, False)
    tests = list(itertools.chain.from_iterable((row.final, row.area) for row in found.values()))
    assert [test.p_holm for test in tests] == pytest.approx(holm([test.p for test in tests]))
    assert found["a"].final.p == pytest.approx(stats.ttest_rel(curves["a"].finals, curves["random"].finals).pvalue)
    assert found["a"].final.test == "paired t"


@pytest.mark.parametrize(
    ("final", "area", "lower", "words"),
    [
        ((0.1, 0.01), (0.1, 0.2), False, "better (end)"),
        ((0.1, 0.01), (0.1, 0.01), True, "worse (end and area)"),
        ((-0.1, 0.01), (0.1, 0.01), False, "worse at the end, better in area"),
        ((0.1, 0.05), (0.1, 0.05), False, "inconclusive"),
        ((0.1, None), (0.1, None), False, "inconclusive (the difference is the same in all seeds)"),
    ],
)
def test_verdicts(final, area, lower, words):
    tests = [Difference(4, mean, p, p) for mean, p in (final, area)]
    assert verdict(*tests, lower_better=lower) == words


def test_few_seeds_are_no_verdict():
    assert verdict(Difference(1, 0.2), Difference(1, 0.2), False) == "inconclusive (1 common seed, needs 3)"


def test_band_of_few_seeds_is_their_range():
    low, high = band(np.array([[0.1, 0.5], [0.3, 0.2], [0.2, 0.4]]), bootstrap=False)
    assert low.tolist() == [0.1, 0.2]
    assert high.tolist() == [0.3, 0.5]


def test_bootstrap_band_is_repeatable_and_about_two_standard_errors_wide():
    values = np.random.default_rng(0).normal(0.5, 0.1, (40, 3))
    low, high = band(values, bootstrap=True)
    assert np.array_equal(band(values, bootstrap=True), (low, high))
    standard_error = values.std(axis=0, ddof=1) / math.sqrt(40)
    assert (high - low) / standard_error == pytest.approx(2 * 1.96, rel=0.1)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("test/nll", True),
        ("test/cost", True),
        ("test/recall/cost", False),
        ("test/recall_at_fpr_1", False),
        ("test/ece", True),
        ("fit_s", True),
        ("test/auroc", False),
        ("test/recall/nll_class", False),
    ],
)
def test_which_metrics_are_better_low(metric, lower):
    assert lower_is_better(metric) == lower


def test_the_name_of_a_class_does_not_turn_a_metric_round():
    assert not lower_is_better("test/recall/metal_s")
    assert not lower_is_better("test/recall/loss")
    assert lower_is_better("test/nll")
    assert lower_is_better("fit_s")


def test_at_one_label_count_the_area_is_not_a_second_test():
    runs = {
        "random": {s: ([10.0], [0.5 + s / 100]) for s in range(4)},
        "margin": {s: ([10.0], [0.6 + s / 90]) for s in range(4)},
    }
    against_random = against(on_grid(runs, 10.0, 10.0), {"margin": "random"}, lower_better=False)["margin"]
    assert against_random.final.p_holm == against_random.final.p
    assert against_random.area.p_holm is None


def test_the_band_of_many_label_counts_is_that_of_each():
    values = np.random.default_rng(1).normal(size=(5, 3000))
    low, high = band(values, bootstrap=True, n_draws=50)
    drawn = values[np.random.default_rng(0).integers(5, size=(50, 5))].mean(axis=1)
    expected = np.percentile(drawn, [2.5, 97.5], axis=0)
    assert low == pytest.approx(expected[0])
    assert high == pytest.approx(expected[1])


def test_a_thinned_curve_keeps_its_ends():
    long = curve("a", [[0.1 * i for i in range(500)]], labels=range(500))
    short = thinned(long, 60)
    assert len(short.labels) == 60
    assert (short.labels[0], short.labels[-1]) == (0, 499)
    assert (10 * short.values[0]).round().tolist() == short.labels.tolist()
    assert thinned(short, 1000).labels.tolist() == short.labels.tolist()
