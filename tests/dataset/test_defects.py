"""The drawn surfaces: deterministic, in the asked proportions, and not solved by brightness."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from alframe.dataset.defects import Defects
from alframe.dataset.surfaces import KINDS, MATERIALS, draw
from alframe.errors import ConfigError

SMALL = {"size": 32, "pool_size": 250, "test_size": 120}


def test_the_same_arguments_draw_the_same_images(tmp_path):
    first, second = (Defects(**SMALL).load(tmp_path / name) for name in "ab")
    assert first.pool.content_hash == second.pool.content_hash
    assert first.test.content_hash == second.test.content_hash
    other = Defects(**SMALL, seed=1).load(tmp_path / "c")
    assert other.pool.content_hash != first.pool.content_hash


def test_the_number_of_threads_changes_nothing(tmp_path):
    before = torch.get_num_threads()
    try:
        hashes = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            hashes.append(Defects(**SMALL).load(tmp_path / str(threads)).pool.content_hash)
    finally:
        torch.set_num_threads(before)
    assert hashes[0] == hashes[1]


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    small = Defects(**SMALL).load(tmp_path).pool
    large = Defects(**{**SMALL, "pool_size": 310}).load(tmp_path).pool
    np.testing.assert_array_equal(large.pixels[:250], small.pixels)
    np.testing.assert_array_equal(large.labels[:250], small.labels)


def test_pool_and_test_share_no_image(tmp_path):
    data = Defects(**SMALL).load(tmp_path)
    assert len(set(data.pool.ids) | set(data.test.ids)) == 250 + 120


@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5, 0.77])
def test_the_share_of_defects_is_the_asked_one(tmp_path, rate):
    pool = Defects(size=16, pool_size=400, test_size=1, defect_rate=rate).load(tmp_path).pool
    assert abs(pool.labels.sum() - 400 * rate) <= 1


def test_kinds_come_in_equal_numbers_and_their_order_is_random(tmp_path):
    pool = Defects(size=16, pool_size=400, test_size=1, defect_rate=0.5, task="kind").load(tmp_path).pool
    assert pool.classes == ("good", *KINDS)
    assert np.bincount(pool.labels).tolist() == [200, 50, 50, 50, 50]
    assert len(set(map(tuple, pool.labels.reshape(4, 100)))) == 4
    assert np.abs(np.diff(pool.labels)).max() > 1


def test_the_task_changes_labels_and_no_pixel(tmp_path):
    binary = Defects(**SMALL).load(tmp_path).pool
    kinds = Defects(**SMALL, task="kind").load(tmp_path).pool
    np.testing.assert_array_equal(binary.pixels, kinds.pixels)
    np.testing.assert_array_equal(binary.labels, np.minimum(kinds.labels, 1))


def test_groups_are_the_materials(tmp_path):
    groups = Defects(**SMALL).load(tmp_path).pool.groups
    assert groups is not None
    assert set(groups) == set(range(len(MATERIALS)))


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_defect_leaves_a_mark_that_grows_with_contrast(name):
    def picture(kind: int, contrast: float) -> torch.Tensor:
        stream = torch.Generator().manual_seed(0)
        return draw(torch.full((40,), kind), [name], 64, contrast, stream)[0].float()

    clean = picture(1, 1e-6)
    faint, strong = ((picture(1, contrast) - clean).abs().flatten(1).max(dim=1).values for contrast in (0.5, 1.5))
    assert (strong >= faint).all()
    assert (faint > 3).float().mean() > 0.9


def test_simple_statistics_of_an_image_hardly_tell_its_label(tmp_path):
    data = Defects(pool_size=1000, test_size=1000).load(tmp_path)

    def features(pixels: np.ndarray) -> np.ndarray:
        x = pixels.astype(np.float64) / 255
        grey = x.mean(1).reshape(len(x), -1)
        return np.hstack(
            [x.mean((2, 3)), x.std((2, 3)), np.quantile(grey, [0, 0.01, 0.1, 0.5, 0.9, 0.99, 1], axis=1).T]
        )

    train, test = features(data.pool.pixels), features(data.test.pixels)
    for column in test[:, :6].T:  # mean and deviation of each colour
        assert 0.35 < roc_auc_score(data.test.labels, column) < 0.65
    model = LogisticRegression(max_iter=3000).fit(train, data.pool.labels)
    assert roc_auc_score(data.test.labels, model.decision_function(test)) < 0.87  # a small network has 0.99


def test_a_finer_image_shows_the_same_scene(tmp_path):
    stream = torch.Generator
    coarse = draw(torch.zeros(5, dtype=torch.long), [], 32, 1.0, stream().manual_seed(0))[0].float().mean((2, 3))
    fine = draw(torch.zeros(5, dtype=torch.long), [], 64, 1.0, stream().manual_seed(0))[0].float().mean((2, 3))
    assert (coarse - fine).abs().max() < 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 8}, "dataset.size"),
        ({"pool_size": 0}, "dataset.pool_size"),
        ({"test_size": 0}, "dataset.test_size"),
        ({"defect_rate": 0.0}, "dataset.defect_rate"),
        ({"defect_rate": 1.0}, "dataset.defect_rate"),
        ({"contrast": 0.0}, "dataset.contrast"),
        ({"kinds": []}, "dataset.kinds"),
        ({"kinds": ["scratch", "scratch"]}, "dataset.kinds"),
        ({"kinds": ["rust"]}, r"scratch, dent, stain, crack, got \['rust'\]"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, words):
    with pytest.raises(ConfigError, match=words):
        Defects(**options)
