"""Reliability, ECE and NLL over the seeds."""

import pytest

from alframe.report.chapters.blocks import Options, Picture, Table
from alframe.report.chapters.calibration import _pooled, chapter
from alframe.report.read.section import sections
from alframe.report.write.figures import render

FIRST = {"confidence": [None, 0.6, 0.9], "accuracy": [None, 0.5, 1.0], "count": [0, 20, 30]}
SECOND = {"confidence": [None, 0.7, 0.8], "accuracy": [None, 0.4, 0.5], "count": [0, 10, 40]}


def the_section(tmp_path):
    (section,), _ = sections([tmp_path])
    return section


def test_bins_are_pooled_over_the_seeds_by_their_images(write_run, write_ledger, tmp_path):
    for seed, reliability in enumerate((FIRST, SECOND)):
        write_ledger(write_run("random", seed), reliability=reliability)
    section = the_section(tmp_path)
    count, confidence, accuracy = _pooled(section.runs, section)
    assert count.tolist() == [0, 30, 70]
    assert confidence.tolist() == pytest.approx([0, 20 * 0.6 + 10 * 0.7, 30 * 0.9 + 40 * 0.8])
    assert accuracy.tolist() == pytest.approx([0, 10 + 4, 30 + 20])
    table, picture = chapter(section, Options()).blocks
    assert isinstance(table, Table)
    assert table.columns == (
        "strategy", "NLL at 120 labels", "mean confidence", "accuracy", "confidence − accuracy"
    )  # fmt: skip
    assert table.rows == (("random", "0.300 ± 0.000", "0.780", "0.640", "+0.140"),)
    assert isinstance(picture, Picture)
    assert render(picture.draw).png


@pytest.mark.parametrize(
    "reliability",
    [
        None,
        {},
        {"count": [1]},
        {"count": ["a"], "confidence": [1], "accuracy": [1]},
        {**FIRST, "count": [0, 0, 0]},
        [1],
    ],
)
def test_evaluations_that_cannot_be_read_leave_the_curves(write_run, write_ledger, tmp_path, reliability):
    write_ledger(write_run("random"), reliability=reliability)
    table, picture = chapter(the_section(tmp_path), Options()).blocks
    assert table.columns == ("strategy", "NLL at 120 labels")
    assert render(picture.draw).png


def test_an_evaluation_of_another_kind_is_passed_over(write_run, write_ledger, tmp_path):
    folder = write_ledger(write_run("random"), reliability=FIRST)
    (folder / "queries" / "round_002.json").write_text('{"evaluation": [1]}')
    section = the_section(tmp_path)
    assert _pooled(section.runs, section) is None


def test_nothing_to_say_is_no_chapter(write_run, tmp_path):
    write_run("random", more={"test/nll": None})
    assert chapter(the_section(tmp_path), Options()) is None
