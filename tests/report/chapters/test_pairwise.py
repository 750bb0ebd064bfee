"""Every strategy against every other: what the chapter marks."""

import numpy as np

from alframe.report.chapters.blocks import Options
from alframe.report.chapters.pairwise import chapter
from alframe.report.read.section import sections


def test_the_chapter_marks_what_differs(write_run, tmp_path):
    wobble = np.random.default_rng(0).normal(0, 0.002, (3, 5, 3))
    for i, name in enumerate(("random", "bald", "margin")):
        for seed in range(5):
            write_run(
                name,
                seed,
                tuple((np.array([0.5, 0.6, 0.7]) + (i == 2) * 0.05 * np.arange(3) + wobble[i, seed]).tolist()),
            )
    (section,), _ = sections([tmp_path])
    intro, matrix, listed, penalties = chapter(section, Options()).blocks
    assert penalties.title == "Pairwise penalty matrix"
    assert float(penalties.rows[2][1]) > 0
    assert intro.text.startswith("2 of 3 pairs differ")
    rows = {row[0]: dict(zip(matrix.columns, row, strict=True)) for row in matrix.rows}
    assert rows["margin"]["bald"].endswith("*")
    assert rows["margin"]["bald"].startswith("+")
    assert rows["bald"]["margin"].startswith("−")
    assert rows["bald"]["bald"] == ""
    assert {row[:2] for row in listed.rows} == {("random", "margin"), ("bald", "margin")}
