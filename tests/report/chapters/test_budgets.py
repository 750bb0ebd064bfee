"""The metric at chosen label counts."""

import numpy as np

from alframe.report.chapters import results
from alframe.report.chapters.blocks import Options
from alframe.report.read.section import sections


def test_budgets_are_quarter_points_or_those_asked_for(write_run, tmp_path):
    write_run("random", 0, tuple(0.5 + 0.01 * i for i in range(9)))
    (section,), _ = sections([tmp_path])
    table = results.budgets(section, Options()).blocks[0]
    assert table.columns[2:] == ("at 120", "at 140", "at 160", "at 180", "area")
    asked = results.budgets(section, Options(at=(115, 500, 100))).blocks[0]
    assert asked.columns[2:] == ("at 100", "at 115", "area")
    assert asked.rows[0][2:4] == ("0.500", "0.515")
    assert "Not shown: 500" in asked.note


def test_a_mean_has_its_interval_from_three_seeds_on():
    assert results.mean_and_interval(np.array([0.5, 0.6])) == "0.550"
    assert results.mean_and_interval(np.array([0.5, 0.6, 0.7])) == "0.600 [0.352, 0.848]"
