"""What stands where."""

import pytest
from matplotlib.figure import Figure

from alframe.errors import ConfigError
from alframe.report.chapters.blocks import Chapter, Options, Paragraph, Picture
from alframe.report.chapters.page import assemble, out_of_range, slug
from alframe.report.read.section import sections


def study(write_run, tmp_path, datasets=("elpv", "cifar10")):
    for dataset in datasets:
        for strategy in ("random", "margin"):
            write_run(strategy, dataset=dataset)
    return sections([tmp_path])


def test_parts_in_their_order(write_run, tmp_path):
    found, left = study(write_run, tmp_path)
    warning = Chapter("Protocol", (Paragraph("few seeds", "warning"),))
    page = assemble(found, left, Options(out=tmp_path), warning, ["a note"])
    titles = [part.title for part in page.parts]
    assert titles == [
        "In short", "Protocol", "cifar10", "elpv", "Over all comparisons", "What was used", "How to read this"
    ]  # fmt: skip
    assert [chapter.title for chapter in page.parts[0].chapters] == ["cifar10", "elpv"]
    assert page.parts[0].blocks == (Paragraph("a note", "warning"),)
    assert page.parts[1].blocks == warning.blocks


def test_pictures_have_names_of_their_own(write_run, tmp_path, monkeypatch):
    topic = lambda section, options: Chapter("t", (Picture("../a b", Figure, ""), Picture("../a b", Figure, "")))  # noqa: E731
    monkeypatch.setattr("alframe.report.chapters.page.TOPICS", (topic,))
    found, left = study(write_run, tmp_path)
    names = [picture.name for picture in assemble(found, left, Options(out=tmp_path)).pictures]
    assert names == ["curves_cifar10", "a_b_cifar10", "a_b_cifar10_2", "curves_elpv", "a_b_elpv", "a_b_elpv_2"]
    alone = assemble(found[:1], left, Options(out=tmp_path)).pictures
    assert [picture.name for picture in alone] == ["curves", "a_b", "a_b_2"]


def test_the_first_screen_points_at_serious_objections(write_run, tmp_path):
    found, left = study(write_run, tmp_path, ("elpv",))
    serious = Chapter("Protocol", (Paragraph("different sets", "bad"), Paragraph("few seeds", "warning")))
    told = [
        block
        for block in assemble(found, left, Options(out=tmp_path), serious).parts[0].blocks
        if isinstance(block, Paragraph)
    ]
    assert told[0].big
    assert told[-1] == Paragraph("1 serious warning under Protocol: read it before relying on any verdict here.", "bad")


def test_a_topic_without_anything_to_say_is_no_chapter(write_run, tmp_path, monkeypatch):
    monkeypatch.setattr("alframe.report.chapters.page.TOPICS", (lambda section, options: None,))
    found, left = study(write_run, tmp_path)
    assert all(
        not part.chapters
        for part in assemble(found, left, Options(out=tmp_path)).parts
        if part.title in ("elpv", "cifar10")
    )


def test_label_counts_out_of_every_range_are_refused_and_of_some_are_reported(write_run, tmp_path):
    found, _ = study(write_run, tmp_path, ("elpv",))
    assert out_of_range(found, Options(at=(100, 120))) == []
    with pytest.raises(ConfigError, match=r"got 121; choose from 100 to 120 \(elpv\)\."):
        out_of_range(found, Options(at=(121,)))


def test_slugs():
    assert slug("a (b=1, c): d") == "a_b_1_c_d"
    assert slug("../..") == ""
