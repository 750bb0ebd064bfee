"""Labels to a target: crossings by hand, bounds where a seed never gets there, and what is saved."""

import math

import numpy as np
import pytest
from scipy import stats

from alframe.report.chapters.blocks import Options
from alframe.report.chapters.targets import chapter, labels_needed, saved, target_of
from alframe.report.read.section import sections
from alframe.report.statistics.curves import Curve

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


def write_both(write_run, **options):
    for seed in range(3):
        write_run("random", seed, (0.5, 0.6, 0.7 + seed / 100), **options)
        write_run("margin", seed, (0.5, 0.65 + seed / 200, 0.8), **options)


def test_target_as_asked_for_or_a_share_of_the_full_data_or_the_baseline_s_end(write_run, tmp_path):
    write_both(write_run)
    write_both(write_run, study="far", dataset="other", data_hash="far")
    write_run("random", 0, (0.9,), labels=[5000], study="all", options={"budget.initial": "all", "budget.rounds": 0})
    write_run("random", 1, (0.92,), labels=[5000], study="all", options={"budget.initial": "all", "budget.rounds": 0})
    write_run("random", 2, (0.1,), labels=[5000], study="all", model="resnet18", options={"budget.initial": "all"})
    found = {section.title: section for section in sections([tmp_path])[0]}
    near = next(section for title, section in found.items() if title.startswith("elpv") and section.range[1] == 120)
    assert near.full_data == pytest.approx(0.91)  # the other model's value is not for it
    assert target_of(near, Options(), "margin").value == pytest.approx(0.95 * 0.91)
    assert target_of(near, Options(full_data_share=0.5), "margin").source == "50 % of the 0.910 of the full data"
    assert target_of(near, Options(target=0.66), "margin").value == 0.66
    assert found["other"].full_data is None
    assert target_of(found["other"], Options(), "margin").value == pytest.approx(0.71)
    assert target_of(found["other"], Options(), "random").source == "the mean of random at the end"


def test_the_chapter_says_how_many_seeds_reached_it(write_run, tmp_path):
    write_both(write_run)
    (section,), _ = sections([tmp_path])
    made = chapter(section, Options())
    rows = {row[0]: row for row in made.blocks[1].rows}
    assert rows["random"][2] == "2 of 3"
    assert rows["margin"][2:4] == ("3 of 3", "114")
    assert rows["margin"][4].startswith("at least +")
    known = {row[0]: row for row in chapter(section, Options(target=0.65)).blocks[1].rows}
    assert known["margin"][2] == "3 of 3"
    assert "to" in known["margin"][5]
    assert chapter(section, Options(target=0.99)).blocks[1].rows[1][4] == "not known"
