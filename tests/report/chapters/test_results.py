"""The first chapter: table, verdicts, and curves by the time that people took."""

import pytest

from alframe.report.chapters.blocks import Options, Paragraph, Picture
from alframe.report.chapters.results import annotation_hours, chapter
from alframe.report.read.section import sections
from alframe.report.write.figures import render


def the_section(tmp_path):
    (section,), _ = sections([tmp_path])
    return section


def test_times_without_a_common_hour_cannot_be_compared(write_run, write_ledger, tmp_path):
    """100 to 120 labels at 36 s are 1.0 to 1.2 hours, at 72 s twice that."""
    write_ledger(write_run("random"), time_s=36.0)
    write_ledger(write_run("bald"), time_s=72.0)
    assert annotation_hours(the_section(tmp_path)) is None


def test_curves_by_time_run_over_the_common_hours(write_run, write_ledger, tmp_path):
    write_ledger(write_run("random", labels=[100, 200, 300]), time_s=36.0)
    write_ledger(write_run("bald", labels=[100, 200, 300]), time_s=72.0)
    section = the_section(tmp_path)
    hours = annotation_hours(section)
    assert hours.curves["random"].labels == pytest.approx([2.0, 3.0])
    assert hours.curves["random"].values[0] == pytest.approx([0.6, 0.7])
    assert hours.curves["bald"].values[0] == pytest.approx([0.5, 0.55])
    pictures = [block for block in chapter(section, Options()).blocks if isinstance(block, Picture)]
    assert [picture.name for picture in pictures] == ["curves_by_time"]
    assert all(render(picture.draw).png for picture in pictures)


def test_without_time_labels_cost_the_same(write_run, write_ledger, tmp_path):
    write_ledger(write_run("random"), time_s=36.0)
    write_ledger(write_run("bald"), time_s=0.0)
    blocks = chapter(the_section(tmp_path), Options(label_cost=2.0)).blocks
    assert not [block for block in blocks if isinstance(block, Picture)]
    assert any("every label costs the same (2 each)" in block.text for block in blocks if isinstance(block, Paragraph))
