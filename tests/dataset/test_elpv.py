"""ELPV: labels, strata, and what is said when the package is not there."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from alframe.dataset.elpv import Elpv
from alframe.errors import ConfigError

installed = pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@installed
def test_grades_have_their_published_counts(cache):
    data = Elpv(size=16, task="grades").load(cache)
    counts = np.bincount(data.pool.labels) + np.bincount(data.test.labels)
    assert counts.tolist() == [1508, 295, 106, 715]
    assert data.pool.shape == (1, 16, 16)


@installed
@pytest.mark.parametrize(("threshold", "n_defective"), [(0.3, 1116), (0.5, 821), (2 / 3, 821), (1.0, 715)])
def test_the_threshold_decides_what_is_defective(cache, threshold, n_defective):
    data = Elpv(size=16, threshold=threshold).load(cache)
    assert data.pool.classes == ("good", "defective")
    assert data.pool.labels.sum() + data.test.labels.sum() == n_defective


@installed
def test_the_test_set_is_stratified_by_grade_and_cell_type(cache):
    data = Elpv(size=16, task="grades", test_share=0.25).load(cache)
    for grade in range(4):
        for cell in (0, 1):
            n_pool, n_test = (
                ((images.labels == grade) & (images.groups == cell)).sum() for images in (data.pool, data.test)
            )
            assert abs(n_test - 0.25 * (n_pool + n_test)) <= 1


@installed
def test_tasks_and_thresholds_share_one_split_and_one_cache(cache, tmp_path):
    sets = [Elpv(size=16, task="grades"), Elpv(size=16), Elpv(size=16, threshold=1.0)]
    names = {options.load(cache).test.names for options in sets}
    assert len(names) == 1
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


@installed
def test_another_split_seed_is_another_test_set(cache):
    assert Elpv(size=16, split_seed=1).load(cache).test.names != Elpv(size=16).load(cache).test.names


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(ConfigError, match=r"pip install 'alframe\[elpv\]'"):
        Elpv().load(tmp_path)


@pytest.mark.parametrize("threshold", [0.0, 1.1])
def test_a_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ConfigError, match="dataset.threshold"):
        Elpv(threshold=threshold)
