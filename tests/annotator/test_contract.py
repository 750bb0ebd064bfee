"""Every annotator leaf that a study can use: an answer to each question, in order, the same when asked again."""

import inspect

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests_support import leaves

from alframe.annotator.base import make_annotator
from alframe.errors import PoolError
from alframe.types import Question


def knows_labels(leaf) -> bool:
    return "labels" in inspect.signature(instantiate(OmegaConf.load(leaf), _convert_="all")).parameters


LEAVES = [leaf for leaf in leaves("annotator") if knows_labels(leaf)]


def test_there_are_annotators():
    assert {"oracle", "noisy"} <= {leaf.stem for leaf in LEAVES}


@pytest.fixture(params=LEAVES, ids=lambda leaf: leaf.stem)
def factory(request):
    return instantiate(OmegaConf.load(request.param), _convert_="all")


def ask(factory, labels):
    annotator = make_annotator(factory, labels=labels, classes=("good", "bad"), seed=0)
    return list(annotator.annotate([Question(str(i), i, "query", 1, rank) for rank, i in enumerate([4, 1, 3])]))


def test_answers_come_in_order_and_are_the_same_when_asked_again(factory):
    labels = np.array([0, 1, 0, 1, 1])
    first = ask(factory, labels)
    assert [answer.index for answer in first] == [4, 1, 3]
    assert all(answer.label in (0, 1) and answer.annotator for answer in first)
    assert first == ask(factory, labels)


def test_an_image_without_a_label_is_named(factory):
    with pytest.raises(PoolError, match="image 1"):
        ask(factory, np.array([0, -1, 0, 1, 1]))
