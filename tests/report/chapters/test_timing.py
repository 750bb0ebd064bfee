"""Seconds of each stage and the price of labels."""

import pytest

from alframe.report.chapters.blocks import Options
from alframe.report.chapters.timing import _duration, chapter
from alframe.report.read.section import sections
from alframe.report.write.figures import render


def the_section(tmp_path):
    (section,), _ = sections([tmp_path])
    return section


def test_totals_are_means_over_the_seeds_and_labels_have_their_price(write_run, tmp_path):
    write_run("random", 0, more={"fit_s": 10.0, "select_s": 0.25})
    write_run("random", 1, more={"fit_s": 20.0, "select_s": 0.25})
    table, picture = chapter(the_section(tmp_path), Options(label_cost=2.5)).blocks
    (row,) = table.rows
    assert dict(zip(table.columns, row, strict=True)) == {
        "strategy": "random", "rounds": "3", "labels": "120", "cost of labels": "300", "total time": "45.8 s",
        "fit": "45.0 s", "evaluate": "0.0 s", "pool": "0.0 s", "select": "0.8 s", "annotate": "0.0 s",
    }  # fmt: skip
    assert render(picture.draw).png


def test_bars_are_the_seconds_of_each_round(write_run, tmp_path):
    write_run("random", 0, more={"fit_s": 1.0, "pool_s": 2.0})
    write_run("random", 1, more={"fit_s": 3.0, "pool_s": None})
    _, picture = chapter(the_section(tmp_path), Options()).blocks
    fit, evaluate, pool, *_ = [patch.get_data() for patch in picture.draw().axes[0].patches]
    assert fit.values.tolist() == [2, 2, 2]
    assert (evaluate.values - evaluate.baseline).tolist() == [0, 0, 0]
    assert (pool.values - pool.baseline).tolist() == [1, 1, 1]


def test_without_seconds_there_is_no_chapter(write_run, tmp_path):
    write_run("random", more={"fit_s": None})
    assert chapter(the_section(tmp_path), Options()) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0.0 s"), (0.01, "< 0.1 s"), (59.94, "59.9 s"), (61.0, "1 min 1 s"), (7265.0, "2 h 1 min")],
)
def test_durations(seconds, text):
    assert _duration(seconds) == text
