import numpy as np
import pytest

from alframe.annotator.base import Job
from alframe.annotator.noisy import Noisy
from alframe.errors import ConfigError
from alframe.images import Data, ImageSet
from alframe.types import Question

LABELS = np.repeat([0, 1, 2], 400)
CLASSES = ("a", "b", "c")


def answers(annotator, indices=range(1200), seed=0):
    images = ImageSet(np.zeros((1200, 1, 1, 1), dtype=np.uint8), LABELS, CLASSES)
    annotate = annotator.start(Job(CLASSES, seed, data=Data("noise", images, images)))
    questions = [Question(str(i), i, "query", 1, rank) for rank, i in enumerate(indices)]
    return np.array([answer.label for answer in annotate(questions)])


def test_symmetric_noise_errs_at_its_rate_and_evenly():
    given = answers(Noisy(rate=0.3))
    counts = np.array([[np.sum((t == LABELS) & (given == a)) for a in range(3)] for t in range(3)]) / 400
    assert np.allclose(counts, 0.15 + 0.55 * np.eye(3), atol=0.07)


def test_a_confusion_matrix_decides_which_mistakes_are_made():
    given = answers(Noisy(confusion=[[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0]]))
    assert set(given[:400]) == {0}
    assert set(given[400:800]) == {2}
    assert abs(np.mean(given[800:] == 0) - 0.5) < 0.1


def test_an_image_gets_the_same_answer_whatever_was_asked_before_it():
    annotator = Noisy(rate=0.5)
    assert np.array_equal(answers(annotator, seed=3)[500:600], answers(annotator, range(500, 600), seed=3))
    assert not np.array_equal(answers(annotator, seed=3), answers(annotator, seed=4))


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
        answers(Noisy(**options))
