"""Figures as files: sharp, and the same bytes from the same runs."""

import io

import numpy as np
import pytest
from PIL import Image

from alframe.report.chapters.figure import learning_curves
from alframe.report.read.section import sections
from alframe.report.write.figures import render


def compared(write_run, tmp_path, n_seeds=3, strategies=("random", "margin", "bald")):
    for place, strategy in enumerate(strategies):
        for seed in range(n_seeds):
            write_run(strategy, seed, tuple(0.5 + 0.01 * seed + 0.001 * place + 0.1 * i for i in range(4)))
    return sections([tmp_path])[0]


def picture(drawn):
    with Image.open(io.BytesIO(drawn.png)) as image:
        return np.asarray(image.convert("L"))


def test_a_single_label_count_can_be_drawn(write_run, tmp_path):
    write_run("random", values=(0.5,))
    write_run("bald", values=(0.6,))
    found = sections([tmp_path])[0]
    assert picture(render(lambda: learning_curves(found))).std() > 5


def test_figures_are_sharp_and_the_same_every_time(write_run, tmp_path):
    found = compared(write_run, tmp_path)
    drawn = render(lambda: learning_curves(found), dpi=200)
    assert drawn == render(lambda: learning_curves(found), dpi=200)
    assert picture(drawn).shape[1] == pytest.approx(200 * drawn.size[0], abs=1)
    assert b"<svg" in drawn.svg


def test_dollar_signs_in_names_are_no_formula(write_run, tmp_path):
    found = compared(write_run, tmp_path, strategies=("random", "$x^2$", "$broken_{"))
    assert render(lambda: learning_curves(found)).png
