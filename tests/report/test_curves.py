"""Curves, bands and tests against naive loops and by hand."""

import itertools
import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import gamma

from alframe.report.curves import (
    Curve,
    Difference,
    against,
    band,
    difference,
    holm,
    lower_is_better,
    on_grid,
    paired_t,
    verdict,
)


def naive_paired_t(a, b) -> float:
    """Student's density integrated by hand."""
    d = [x - y for x, y in zip(a, b, strict=True)]
    n, mean = len(d), sum(d) / len(d)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / (n - 1))
    t, v = abs(mean) / (sd / math.sqrt(n)), n - 1
    density = lambda x: gamma((v + 1) / 2) / (math.sqrt(v * math.pi) * gamma(v / 2)) * (1 + x * x / v) ** (-(v + 1) / 2)  # noqa: E731
    return 2 * quad(density, t, np.inf)[0]


def curve(name, values, seeds=None, labels=(100, 110, 120)) -> Curve:
    values = np.array(values, dtype=float)
    return Curve(name, tuple(seeds or range(len(values))), np.array(labels, dtype=float), values)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_paired_t_agrees_with_the_density_integrated(n):
    rng = np.random.default_rng(n)
    a, b = rng.normal(0.6, 0.1, n), rng.normal(0.5, 0.1, n)
    assert paired_t(a, b) == pytest.approx(naive_paired_t(a, b), rel=1e-6)
    assert paired_t(a, b) == pytest.approx(paired_t(b, a))


def test_two_pairs_are_not_tested():
    assert paired_t(np.array([0.5, 0.6]), np.array([0.1, 0.3])) is None


def test_equal_steps_in_all_seeds_are_not_certainty():
    base = np.array([0.61, 0.62, 0.63])
    assert paired_t(base + 0.01, base) is None
    assert paired_t(base, base) is None


def test_holm_agrees_with_a_naive_step_down():
    rng = np.random.default_rng(0)
    for m in (1, 2, 5, 8):
        p = rng.random(m) ** 3
        order = np.argsort(p)
        for place, i in enumerate(order):
            naive = max(min(1.0, (m - k) * p[j]) for k, j in enumerate(order[: place + 1]))
            assert holm(p.tolist())[i] == pytest.approx(naive)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_keeps_the_share_of_false_alarms():
    """Under no difference at all, a family of four tests raises an alarm in at most 5 % of 2,000 studies (and 2 sd)."""
    rng = np.random.default_rng(1)
    alarms = 0
    for _ in range(500):
        base = rng.normal(size=5)
        p = [naive for _ in range(4) if (naive := paired_t(rng.normal(size=5), base)) is not None]
        alarms += min(holm(p)) < 0.05
    assert alarms / 500 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 500)


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
    found = difference(this, that, "finals")
    assert found.n == 2
    assert found.mean == pytest.approx(((0.9 - 0.7) + (0.5 - 0.4)) / 2)
    assert found.p is None
    assert difference(this, curve("c", [[0, 0, 0]], seeds=(1,)), "finals").n == 0


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
    assert found["a"].final.p == pytest.approx(naive_paired_t(curves["a"].finals, curves["random"].finals), rel=1e-6)


@pytest.mark.parametrize(
    ("final", "area", "lower", "words"),
    [
        ((0.1, 0.01), (0.1, 0.2), False, "better (end)"),
        ((0.1, 0.01), (0.1, 0.01), True, "worse (end and area)"),
        ((-0.1, 0.01), (0.1, 0.01), False, "worse at the end, better in area"),
        ((0.1, 0.05), (0.1, 0.05), False, "cannot tell"),
        ((0.1, None), (0.1, None), False, "cannot tell (the difference is the same in all seeds)"),
    ],
)
def test_verdicts(final, area, lower, words):
    tests = [Difference(4, mean, p, p) for mean, p in (final, area)]
    assert verdict(*tests, lower_better=lower) == words


def test_few_seeds_are_no_verdict():
    assert verdict(Difference(1, 0.2), Difference(1, 0.2), False) == "cannot tell (1 common seed, needs 3)"


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
