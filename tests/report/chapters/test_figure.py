"""Learning curves: where the names stand, and what the caption says."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from alframe.console import shorten
from alframe.report.chapters.figure import BASELINE, learning_curves, spread
from alframe.report.read.section import sections


def compared(write_run, tmp_path, n_seeds=3, strategies=("random", "margin", "bald")):
    for place, strategy in enumerate(strategies):
        for seed in range(n_seeds):
            write_run(strategy, seed, tuple(0.5 + 0.01 * seed + 0.001 * place + 0.1 * i for i in range(4)))
    return sections([tmp_path])[0]


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_every_curve_is_named_at_its_end_without_overlap(write_run, tmp_path):
    strategies = ("random", *(f"strategy {k}" for k in range(11)))
    figure = learning_curves(compared(write_run, tmp_path, 1, strategies))
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = sorted(
        (text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text() in strategies),
        key=lambda box: box.y0,
    )
    assert len(boxes) == 12
    assert all(below.y1 < above.y1 and below.y0 + 0.6 * below.height < above.y0 for below, above in pairwise(boxes))
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)


@pytest.mark.parametrize(
    ("n_seeds", "caption"),
    [
        (1, "one seed each: the spread is unknown"),
        (3, "lowest to highest seed"),
        (5, "95 % bootstrap interval of the mean"),
    ],
)
def test_the_caption_says_what_the_band_is(write_run, tmp_path, n_seeds, caption):
    figure = learning_curves(compared(write_run, tmp_path, n_seeds))
    assert caption in words(figure)[0]
    assert len(figure.axes[0].collections) == (3 if n_seeds > 1 else 0)


def test_the_baseline_is_grey_and_the_others_are_not(write_run, tmp_path):
    figure = learning_curves(compared(write_run, tmp_path))
    colours = {text.get_text(): text.get_color() for text in figure.axes[0].texts}
    assert colours["random"] == BASELINE
    assert len({colours[name] for name in ("random", "margin", "bald")}) == 3


def test_the_curve_drawn_is_the_mean_over_seeds(write_run, tmp_path):
    figure = learning_curves(compared(write_run, tmp_path))
    line = figure.axes[0].lines[0]
    assert line.get_xdata() == pytest.approx([100, 110, 120, 130])
    assert line.get_ydata() == pytest.approx([0.51, 0.61, 0.71, 0.81])


def test_a_panel_for_each_comparison(write_run, tmp_path):
    for dataset in ("elpv", "cifar10", "svhn", "mnist"):
        write_run("random", dataset=dataset)
    figure = learning_curves(sections([tmp_path])[0])
    assert sorted(axes.get_title(loc="left") for axes in figure.axes) == ["cifar10", "elpv", "mnist", "svhn"]


def test_names_are_cut_in_the_middle():
    assert shorten("scratch 12", 10) == "scratch 12"
    assert shorten("a very long scratch 12", 10) == "a very… 12"
    assert len(shorten("x" * 50, 10)) == 10


def test_spread_leaves_free_heights_alone_and_parts_close_ones():
    assert spread([0.1, 0.9, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.1, 0.9, 0.5])
    assert spread([0.5, 0.52], 0.1, 0.0, 1.0) == pytest.approx([0.46, 0.56])
    assert spread([0.99, 0.98, 0.97], 0.1, 0.0, 1.0) == pytest.approx([1.0, 0.9, 0.8])
    assert spread([0.0, 0.01], 0.1, 0.0, 1.0) == pytest.approx([0.0, 0.1])
    assert spread([0.5, 0.5, 0.5], 0.8, 0.0, 1.0) == pytest.approx([0.0, 0.5, 1.0])


def test_spread_keeps_order_gap_and_bounds_for_any_heights():
    rng = np.random.default_rng(0)
    for n in (1, 2, 5, 12):
        for _ in range(50):
            wanted = rng.random(n) * rng.choice([0.05, 1.0])
            placed = np.array(spread(wanted.tolist(), 0.07, 0.0, 1.0))
            assert np.array_equal(np.argsort(placed, kind="stable"), np.argsort(wanted, kind="stable"))
            assert (np.diff(np.sort(placed)) >= 0.07 - 1e-9).all()
            assert placed.min() >= -1e-9
            assert placed.max() <= 1 + 1e-9
