"""Every annotator leaf: what it declares, and of those for studies an answer to each question, in order, the same when asked again."""

from dataclasses import fields

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tests_support import leaves

from alframe.annotator.base import Annotator, Job
from alframe.annotator.people import AsksPeople
from alframe.errors import PoolError
from alframe.images import Data, ImageSet
from alframe.types import Question

CLASSES = ("good", "bad")
EVERY = {leaf.stem: instantiate(OmegaConf.load(leaf), _convert_="all") for leaf in leaves("annotator")}
FOR_STUDIES = {name: annotator for name, annotator in EVERY.items() if annotator.needs_labels}


def test_there_are_annotators():
    assert {"oracle", "noisy"} <= FOR_STUDIES.keys()
    assert {"queue", "label_studio"} <= EVERY.keys() - FOR_STUDIES.keys()


@pytest.mark.parametrize("name", EVERY)
def test_what_it_declares_is_about_options_that_it_has(name):
    annotator = EVERY[name]
    assert isinstance(annotator, Annotator)
    declared = {*annotator.changeable_on_resume, *annotator.not_in_identity, *annotator.added_options}
    assert declared <= {field.name for field in fields(annotator)}


@pytest.mark.parametrize("name", EVERY)
def test_a_yaml_has_every_option_with_the_default_of_the_class(name):
    annotator = EVERY[name]
    assert annotator == type(annotator)()
    (leaf,) = (leaf for leaf in leaves("annotator") if leaf.stem == name)
    assert OmegaConf.load(leaf).keys() - {"_target_"} == {field.name for field in fields(annotator)}


@pytest.mark.parametrize("name", EVERY)
def test_people_have_rules_and_an_empty_folder_holds_no_answers(name, tmp_path):
    annotator = EVERY[name]
    assert annotator.rules(CLASSES).people == isinstance(annotator, AsksPeople)
    assert not annotator.has_answers(tmp_path)


def ask(annotator, labels):
    images = ImageSet(np.zeros((5, 1, 1, 1), dtype=np.uint8), labels, CLASSES)
    annotate = annotator.start(Job(CLASSES, data=Data("five", images, images)))
    return list(annotate([Question(str(i), i, "query", 1, rank) for rank, i in enumerate([4, 1, 3])]))


@pytest.mark.parametrize("name", FOR_STUDIES)
def test_answers_come_in_order_and_are_the_same_when_asked_again(name):
    labels = np.array([0, 1, 0, 1, 1])
    first = ask(FOR_STUDIES[name], labels)
    assert [answer.index for answer in first] == [4, 1, 3]
    assert all(answer.label in (0, 1) and answer.annotator for answer in first)
    assert first == ask(FOR_STUDIES[name], labels)


@pytest.mark.parametrize("name", FOR_STUDIES)
def test_an_image_without_a_label_is_named(name):
    with pytest.raises(PoolError, match="image 1"):
        ask(FOR_STUDIES[name], np.array([0, -1, 0, 1, 1]))
