"""Over all comparisons: penalties, ranks and the diagram."""

import io

import numpy as np

from alframe.report.chapters.blocks import Options, Paragraph, Picture, Table
from alframe.report.chapters.overall import diagram, overall, ranks_over
from alframe.report.read.section import sections
from alframe.report.statistics.pairwise import average_ranks


def test_the_diagram_names_every_strategy():
    found = average_ranks(list("abcde"), np.random.default_rng(0).random((6, 5)))
    figure = diagram(found)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert all(any(name in text.split() for text in texts) for name in "abcde")
    figure.savefig(io.BytesIO(), format="png")


def several(write_run, names=("random", "bald", "margin"), datasets=("one", "two", "three")):
    rng = np.random.default_rng(0)
    for dataset in datasets:
        for i, name in enumerate(names):
            for seed in range(3):
                values = 0.5 + 0.1 * np.arange(3) + 0.02 * i + rng.normal(0, 0.003, 3)
                write_run(name, seed, tuple(values.tolist()), study=dataset, dataset=dataset)


def test_over_all_comparisons(write_run, tmp_path):
    several(write_run)
    found, _ = sections([tmp_path])
    chapter = overall(found, Options())
    assert [type(block) for block in chapter.blocks] == [Table, Paragraph, Table, Picture]
    ranks = chapter.blocks[2]
    assert ranks.rows == (("margin", "1.00"), ("bald", "2.00"), ("random", "3.00"))
    penalties = chapter.blocks[0]
    assert [row[0] for row in penalties.rows] == ["random", "bald", "margin", "column mean"]
    beaten = dict(zip(penalties.columns[1:], map(float, penalties.rows[-1][1:]), strict=True))
    assert beaten["margin"] == 0 < beaten["random"]
    assert chapter.blocks[3].draw().axes


def test_too_little_for_ranks_says_why(write_run, tmp_path):
    several(write_run, datasets=("one",))
    found, _ = sections([tmp_path])
    assert ranks_over(found) == (None, "Ranks need 2 comparisons (datasets or budgets) or more, got 1.")
    several(write_run, names=("random", "lcmd"), datasets=("four",))
    found, _ = sections([tmp_path])
    assert ranks_over(found) == (None, "Ranks need 3 strategies that all comparisons share, got 1.")
    assert ranks_over([])[0] is None
    why = overall(found, Options()).blocks
    assert all(isinstance(block, Paragraph) for block in why)


def test_a_single_strategy_has_nothing_over_all(write_run, tmp_path):
    write_run()
    assert overall(sections([tmp_path])[0], Options()) is None
