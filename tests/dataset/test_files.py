"""Unlabelled images beside a dataset: the shape and the classes of its pool, and no labels."""

import numpy as np
import pytest
from PIL import Image

from alframe.dataset.files import load_unlabelled
from alframe.errors import DataError
from alframe.images import ImageSet


def save(folder, n, height=20, width=30, colour=True):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        shape = (height, width, 3) if colour else (height, width)
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{i}.png")


def like(channels, height, width):
    return ImageSet(np.zeros((2, channels, height, width), np.uint8), np.array([0, 1]), ("good", "bad"))


@pytest.mark.parametrize("channels", [1, 3])
def test_they_take_the_shape_and_classes_of_the_pool(tmp_path, channels):
    save(tmp_path / "line" / "monday", 3)
    images = load_unlabelled(tmp_path / "line", like(channels, 16, 16), tmp_path / "cache")
    assert images.pixels.shape == (3, channels, 16, 16)
    assert images.labels.tolist() == [-1, -1, -1]
    assert images.classes == ("good", "bad")
    assert images.names == ("monday/0.png", "monday/1.png", "monday/2.png")


def test_of_another_size_than_images_that_are_not_square_they_are_refused(tmp_path):
    save(tmp_path / "line", 2)
    assert load_unlabelled(tmp_path / "line", like(3, 20, 30), tmp_path / "cache").shape == (3, 20, 30)
    with pytest.raises(DataError, match=r"images of 20 x 31 pixels .* got 20 x 30; resize them"):
        load_unlabelled(tmp_path / "line", like(3, 20, 31), tmp_path / "cache")


def test_what_is_no_image_by_its_name_is_passed_over_and_a_broken_image_is_told(tmp_path):
    save(tmp_path / "line", 2)
    (tmp_path / "line" / "notes.txt").write_text("night shift")
    assert len(load_unlabelled(tmp_path / "line", like(3, 8, 8), tmp_path / "cache")) == 2
    (tmp_path / "line" / "cut.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cut.png \(not an image\); fix or remove them"):
        load_unlabelled(tmp_path / "line", like(3, 8, 8), tmp_path / "cache")


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "line").mkdir()
    with pytest.raises(DataError, match=r"Expected unlabelled images in .*, got none; put them there"):
        load_unlabelled(tmp_path / "line", like(3, 8, 8), tmp_path / "cache")
