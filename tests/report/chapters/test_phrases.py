"""Numbers and verdicts in words."""

import pytest

from alframe.report.chapters import phrases
from alframe.report.chapters.phrases import tone_of


@pytest.mark.parametrize(
    ("verdict", "tone"),
    [
        ("better (end)", "good"),
        ("worse (area)", "bad"),
        ("inconclusive", ""),
        ("worse at the end, better in area", "warning"),
    ],
)
def test_tones(verdict, tone):
    assert tone_of(verdict) == tone


@pytest.mark.parametrize(
    ("metric", "words", "size"),
    [
        ("test/accuracy", "accuracy", "2.3 points"), ("test/auroc", "AUROC", "2.3 points"), ("test/nll", "NLL", "0.023"),
        ("test/recall/a_b/c", "recall of a_b/c", "2.3 points"), ("test/balanced_accuracy", "balanced accuracy", "2.3 points"),
        ("fit_s", "fit s", "0.023"), ("validation/nll", "validation NLL", "0.023"), ("train/loss", "train loss", "0.023"),
    ],
)  # fmt: skip
def test_metrics_in_words_and_points(metric, words, size):
    assert phrases.metric_words(metric) == words
    assert phrases.size(-0.023, metric) == size


def test_numbers_never_print_nan():
    assert phrases.number(float("nan"), "test/accuracy") == "–"
    assert phrases.value(float("nan")) == "–"
    assert phrases.span(None, "test/nll") == "–"
    assert phrases.p_value(None) == "–"
    assert phrases.p_value(0.0001) == "< 0.001"
    assert phrases.number(-0.0004, "test/accuracy", sign=True) == "−0.04"
    assert phrases.number(0.0, "test/accuracy") == "0.0"
