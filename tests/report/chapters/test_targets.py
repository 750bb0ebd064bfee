"""Where a target comes from, and how many seeds reached it."""

import pytest

from alframe.report.chapters.blocks import Options
from alframe.report.chapters.targets import chapter, target_of
from alframe.report.read.section import sections


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
    assert target_of(near, Options(full_data_share=0.5), "margin").source == "50 % of the 0.910 with all labels"
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
    assert chapter(section, Options(target=0.99)).blocks[1].rows[1][4] == "unknown"
