"""Paired tests, corrections and intervals against naive loops, integrals and scipy."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import gamma

from alframe.report.statistics import paired as statistics
from alframe.report.statistics.paired import (
    PAIRED_T,
    SIGN_FLIP,
    beats,
    choose_test,
    compare_paired,
    hedges_correction,
    holm,
    mean_interval,
    paired_t,
    sign_flip,
)


def naive_paired_t(differences) -> float:
    """Student's density integrated by hand."""
    n, mean = len(differences), sum(differences) / len(differences)
    sd = math.sqrt(sum((x - mean) ** 2 for x in differences) / (n - 1))
    t, v = abs(mean) / (sd / math.sqrt(n)), n - 1
    density = lambda x: gamma((v + 1) / 2) / (math.sqrt(v * math.pi) * gamma(v / 2)) * (1 + x * x / v) ** (-(v + 1) / 2)  # noqa: E731
    return 2 * quad(density, t, np.inf)[0]


def naive_sign_flip(differences) -> float:
    seen = abs(sum(differences))
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    return sum(flip >= seen - 1e-12 for flip in flips) / len(flips)


@pytest.mark.parametrize("n", [3, 5, 9])
def test_paired_t_agrees_with_the_density_integrated(n):
    rows = np.random.default_rng(n).normal(0.1, 0.1, (4, n))
    assert paired_t(rows) == pytest.approx([naive_paired_t(row) for row in rows], rel=1e-6)
    assert paired_t(-rows) == pytest.approx(paired_t(rows))


@pytest.mark.parametrize("n", [1, 2, 5, 8, 11])
def test_sign_flips_are_counted_exactly(n):
    rows = np.random.default_rng(n).normal(0.5, 1.0, (3, n))
    assert sign_flip(rows) == pytest.approx([naive_sign_flip(row) for row in rows])


def test_ties_of_a_small_test_set_count_as_ties():
    steps = np.array([0.1, 0.1, -0.1, 0.3, 0.1, 0.2, 0.0, 0.1])  # sums that are equal but for rounding
    whole = [naive_sign_flip([round(10 * x) for x in steps])]
    assert sign_flip(steps[None]) == pytest.approx(whole)
    assert sign_flip(steps[None] / 3) == pytest.approx(whole)


def test_drawn_flips_come_near_the_exact_p_and_never_give_0(monkeypatch):
    rows = np.random.default_rng(2).normal(0.4, 1.0, (5, 14))
    exact = sign_flip(rows)
    statistics.flips.cache_clear()
    monkeypatch.setattr(statistics, "EXACT_SEEDS", 10)
    drawn = sign_flip(rows)
    statistics.flips.cache_clear()
    assert (np.abs(drawn - exact) <= 4 * np.sqrt(exact * (1 - exact) / statistics.N_FLIPS) + 1e-4).all()
    assert sign_flip(np.ones((1, 40)) + np.arange(40) / 100) == pytest.approx([1 / (statistics.N_FLIPS + 1)])


def test_many_rows_are_the_same_as_one_at_a_time():
    rows = np.random.default_rng(0).normal(0.2, 1.0, (150, 9))
    assert sign_flip(rows) == pytest.approx(np.concatenate([sign_flip(row[None]) for row in rows]))


@pytest.mark.parametrize(
    ("n", "n_tests", "test"),
    [(3, 1, PAIRED_T), (7, 1, PAIRED_T), (8, 1, SIGN_FLIP), (8, 2, SIGN_FLIP), (8, 3, PAIRED_T), (10, 8, SIGN_FLIP),
     (10, 9, PAIRED_T), (40, 1000, SIGN_FLIP)],
)  # fmt: skip
def test_permutation_from_8_seeds_on_where_it_can_show_something(n, n_tests, test):
    assert choose_test(n, n_tests) == test
    if test == SIGN_FLIP and n <= 16:
        assert 3 * 2 ** (1 - n) * n_tests < 0.05


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


def test_differences_are_described_over_the_seeds_that_are_there():
    nan = np.nan
    rows = np.array(
        [[0.1, nan, 0.3, 0.25], [0.1, 0.1, 0.1, 0.1], [nan, nan, 0.2, 0.1], [nan] * 4, [nan, 0.5, nan, nan]]
    )
    first, equal, two, none, one = compare_paired(rows)
    kept = [0.1, 0.3, 0.25]
    assert (first.n, first.test) == (3, PAIRED_T)
    assert first.p == pytest.approx(naive_paired_t(kept), rel=1e-6)
    assert first.p_holm == first.p  # the only test of the family
    assert first.interval == pytest.approx(stats.t.interval(0.95, 2, np.mean(kept), stats.sem(kept)))
    assert first.effect == pytest.approx(np.mean(kept) / np.std(kept, ddof=1) * hedges_correction(2))
    assert (equal.n, equal.p, equal.interval, equal.effect) == (4, None, None, None)
    assert (two.n, two.p, two.interval) == (2, None, None)
    assert (none.n, none.p) == (0, None)
    assert (one.n, one.mean, one.sd) == (1, 0.5, None)


def test_rows_with_different_numbers_of_seeds_are_one_family():
    rng = np.random.default_rng(4)
    rows = rng.normal(0.02, 0.02, (4, 12))
    rows[1, 4:], rows[2, :3] = np.nan, np.nan
    found = compare_paired(rows)
    assert [one.n for one in found] == [12, 4, 9, 12]
    assert [one.test for one in found] == [SIGN_FLIP, PAIRED_T, SIGN_FLIP, SIGN_FLIP]
    assert [one.p_holm for one in found] == pytest.approx(holm([one.p for one in found]))
    assert found[2].p == pytest.approx(naive_sign_flip(rows[2, 3:]))
    assert found[1].p == pytest.approx(naive_paired_t(rows[1, :4]), rel=1e-6)


def test_equal_steps_in_all_seeds_are_not_certainty():
    base = np.array([0.61, 0.62, 0.63])
    for scale in (1.0, 1000.0):
        (found,) = compare_paired(((base + 0.01) - base)[None] * scale)
        assert found.p is None
        assert not found.is_shown


def test_hedges_correction_makes_the_effect_unbiased():
    assert hedges_correction(2) == pytest.approx(0.5642, abs=1e-4)
    rows = np.random.default_rng(0).normal(0.8, 1.0, (40_000, 5))
    effects = hedges_correction(4) * rows.mean(axis=1) / rows.std(axis=1, ddof=1)
    assert effects.mean() == pytest.approx(0.8, abs=4 * effects.std() / 200)


def test_an_interval_is_student_s_and_takes_three_values():
    values = np.array([0.5, 0.7, 0.65, 0.61])
    assert mean_interval(values) == pytest.approx(stats.t.interval(0.95, 3, values.mean(), stats.sem(values)))
    assert mean_interval(values[:2]) is None


def test_beats_is_a_t_test_at_each_place():
    rng = np.random.default_rng(1)
    rows = rng.normal(0.5, 0.5, (6, 5, 4))
    rows[2, 1] = np.nan
    rows[3, :, 2] = 0.25  # equal in all seeds: says nothing
    rows[4, :3] = np.nan
    found = beats(rows)
    for i, t in itertools.product(range(6), range(4)):
        kept = [x for x in rows[i, :, t] if not math.isnan(x)]
        naive = len(kept) >= 3 and max(kept) - min(kept) > 1e-9 and naive_paired_t(kept) < 0.05 and sum(kept) > 0
        assert found[i, t] == naive
    assert 0 < found.sum() < found.size
