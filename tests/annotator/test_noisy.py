import numpy as np
import pytest

from alframe.annotator.noisy import Noisy
from alframe.errors import ConfigError
from alframe.types import Question

LABELS = np.repeat([0, 1, 2], 400)
CLASSES = ("a", "b", "c")


def answers(annotator, indices=range(1200), round=1):
    questions = [Question(str(i), i, "query", round, rank) for rank, i in enumerate(indices)]
    return np.array([answer.label for answer in annotator.annotate(questions)])


def test_symmetric_noise_errs_at_its_rate_and_evenly():
    given = answers(Noisy(labels=LABELS, classes=CLASSES, seed=0, rate=0.3))
    counts = np.array([[np.sum((t == LABELS) & (given == a)) for a in range(3)] for t in range(3)]) / 400
    assert np.allclose(counts, 0.15 + 0.55 * np.eye(3), atol=0.07)


def test_a_confusion_matrix_decides_which_mistakes_are_made():
    given = answers(Noisy(labels=LABELS, classes=CLASSES, seed=0, confusion=[[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]]))
    assert set(given[:400]) == {0}
    assert set(given[400:800]) == {2}
    assert abs(np.mean(given[800:] == 0) - 0.5) < 0.1


def test_an_image_gets_the_same_answer_whatever_was_asked_before_it():
    annotator = Noisy(labels=LABELS, classes=CLASSES, seed=3, rate=0.5)
    assert np.array_equal(answers(annotator)[500:600], answers(annotator, range(500, 600)))
    assert not np.array_equal(answers(annotator), answers(Noisy(labels=LABELS, classes=CLASSES, seed=4, rate=0.5)))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rate": 1.5}, "annotator.rate"),
        ({"confusion": [[1, 0], [0, 1]]}, "3 rows of 3"),
        ({"confusion": [[0.5, 0.6, 0], [0, 1, 0], [0, 0, 1]]}, "sum to 1"),
        ({"confusion": [[1.5, -0.5, 0], [0, 1, 0], [0, 0, 1]]}, "probabilities"),
    ],
)
def test_impossible_noise_is_refused(options, told):
    with pytest.raises(ConfigError, match=told):
        Noisy(labels=LABELS, classes=CLASSES, seed=0, **options)
