"""Arrays: every accepted form gives the same images, and every bad one a clear line."""

import re
from pathlib import Path

import numpy as np
import pytest

from alframe.dataset.arrays import Arrays
from alframe.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 6, 7)).astype(np.uint8)
COLOUR = RNG.integers(0, 256, (20, 6, 7, 3)).astype(np.uint8)
LABELS = np.arange(20) % 4


def npz(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "data.npz", **({"images": GREY, "labels": LABELS} | arrays))
    return folder / "data.npz"


def everything(options: Arrays, cache: Path) -> np.ndarray:
    """All images sorted by their bytes, to compare sets whose splits differ."""
    data = options.load(cache)
    rows = np.concatenate([data.pool.pixels, data.test.pixels]).reshape(20, -1)
    return rows[np.lexsort(rows.T)]


FORMS = {
    "nhw": (GREY, GREY[:, None]),
    "nhw1": (GREY[..., None], GREY[:, None]),
    "n1hw": (GREY[:, None], GREY[:, None]),
    "nhwc": (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
    "nchw": (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
    "float32": ((COLOUR / 255).astype(np.float32), COLOUR.transpose(0, 3, 1, 2)),
    "float64": (GREY / 255, GREY[:, None]),
    "uint16": (GREY.astype(np.uint16) * 257, GREY[:, None]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("folder", [False, True], ids=["npz", "npy"])
def test_every_form_becomes_uint8_nchw(tmp_path, form, folder):
    images, expected = FORMS[form]
    if folder:
        root = tmp_path / "arrays"
        root.mkdir()
        np.save(root / "images.npy", images)
        np.save(root / "labels.npy", LABELS)
    else:
        root = npz(tmp_path, images=images)
    rows = expected.reshape(20, -1)
    np.testing.assert_array_equal(everything(Arrays(root), tmp_path / "cache"), rows[np.lexsort(rows.T)])


def test_labels_stay_with_their_images_and_are_in_both_splits(tmp_path):
    data = Arrays(npz(tmp_path, images=LABELS[:, None, None].astype(np.uint8) * np.ones((1, 6, 7), np.uint8))).load(
        tmp_path
    )
    for images in (data.pool, data.test):
        assert (images.pixels[:, 0, 0, 0] == images.labels).all()
        assert set(images.labels) == {0, 1, 2, 3}
    assert data.pool.classes == ("0", "1", "2", "3")
    assert (len(data.pool), len(data.test)) == (15, 5)


def test_given_test_arrays_are_the_test_set(tmp_path):
    root = npz(tmp_path, test_images=GREY[:7], test_labels=LABELS[:7])
    data = Arrays(root).load(tmp_path)
    np.testing.assert_array_equal(data.pool.pixels, GREY[:, None])
    np.testing.assert_array_equal(data.test.pixels, GREY[:7, None])
    np.testing.assert_array_equal(data.test.labels, LABELS[:7])
    limited = Arrays(root, pool_size=8, test_size=4).load(tmp_path)
    assert (len(limited.pool), len(limited.test)) == (8, 4)


def test_classes_are_named_by_the_option_or_by_the_file(tmp_path):
    root = npz(tmp_path, classes=np.array(["a", "b", "c", "d"]))
    assert Arrays(root).load(tmp_path).pool.classes == ("a", "b", "c", "d")
    assert Arrays(root, classes=["w", "x", "y", "z"]).load(tmp_path).pool.classes == ("w", "x", "y", "z")


def test_a_changed_file_is_read_again(tmp_path):
    first = Arrays(npz(tmp_path)).load(tmp_path / "cache")
    second = Arrays(npz(tmp_path, images=255 - GREY)).load(tmp_path / "cache")
    assert first.pool.content_hash != second.pool.content_hash


def poison(value: float, *places: tuple[int, ...]) -> np.ndarray:
    images = (GREY / 255).astype(np.float32)
    for place in places:
        images[place] = value
    return images


BAD = {
    "NaN": ({"images": poison(np.nan, (3, 1, 2), (9, 0, 0))}, "got 2 NaN or infinite, the first at images[3, 1, 2]"),
    "infinite": ({"images": poison(np.inf, (0, 5, 6))}, "got 1 NaN or infinite, the first at images[0, 5, 6]"),
    "too bright": ({"images": GREY.astype(np.float32)}, "got values from 0 to 255"),
    "negative": ({"images": poison(-0.5, (0, 0, 0))}, "got values from -0.5 to 1"),
    "integers": ({"images": GREY.astype(np.int64)}, "Expected images of uint8, uint16 or float in [0, 1], got int64"),
    "boolean": ({"images": GREY > 9}, "got bool"),
    "four channels": ({"images": np.zeros((20, 6, 7, 4), np.uint8)}, "with c = 1 or 3, got [20, 6, 7, 4]"),
    "flat": ({"images": GREY.reshape(20, -1)}, "got [20, 42]"),
    "no shape": ({"images": np.uint8(3)}, "got []"),
    "none": ({"images": GREY[:0], "labels": LABELS[:0]}, "at least one image in images"),
    "ambiguous": ({"images": np.zeros((20, 3, 7, 3), np.uint8)}, "set dataset.layout=nhwc or dataset.layout=nchw"),
    "objects": ({"images": np.array([None] * 20)}, "Expected a readable array images"),
    "one label short": ({"labels": LABELS[:-1]}, "got 20 images and 19 labels"),
    "negative label": ({"labels": np.where(np.arange(20) == 6, -1, LABELS)}, "from 0 on, got -1 for image 6"),
    "float labels": (
        {"labels": LABELS.astype(np.float32)},
        "Expected labels to be a one-dimensional integer array, got float32",
    ),
    "one-hot labels": ({"labels": np.eye(4, dtype=int)[LABELS]}, "one-dimensional integer array, got int64 [20, 4]"),
    "label out of range": (
        {"classes": np.array(["a", "b", "c"])},
        "Expected labels from 0 to 2 (3 classes), got 3 for image 3 and 4 more;",
    ),
    "test label out of range": (
        {"test_images": GREY[:3], "test_labels": np.array([0, 9, 1])},
        "Expected test_labels from 0 to 3 (4 classes), got 9 for image 1",
    ),
    "test images without labels": ({"test_images": GREY[:3]}, "Expected an array named test_labels"),
    "test images of another shape": (
        {"test_images": COLOUR[:4], "test_labels": LABELS[:4]},
        "Expected pool and test images of the same shape",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays_get_a_clear_line(tmp_path, case):
    arrays, words = BAD[case]
    with pytest.raises(DataError, match=re.escape(words)):
        Arrays(npz(tmp_path, **arrays)).load(tmp_path / "cache")


def test_the_place_of_the_first_nan_is_counted_over_the_whole_array(tmp_path):
    images = np.zeros((2100, 2, 2), np.float32)
    images[2077, 1, 0] = images[2090, 0, 1] = np.nan
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(2100) % 2)
    with pytest.raises(DataError, match=re.escape("got 2 NaN or infinite, the first at images[2077, 1, 0]")):
        Arrays(tmp_path / "data.npz").load(tmp_path / "cache")


def test_a_stated_layout_settles_an_ambiguous_shape(tmp_path):
    images = RNG.integers(0, 256, (20, 3, 7, 3)).astype(np.uint8)
    root = npz(tmp_path, images=images)
    assert Arrays(root, layout="nchw").load(tmp_path).pool.shape == (3, 7, 3)
    assert Arrays(root, layout="nhwc").load(tmp_path).pool.shape == (3, 3, 7)
    with pytest.raises(DataError, match=re.escape("Expected images as [n, h, w] with c = 1 or 3")):
        Arrays(root, layout="nhw").load(tmp_path)


@pytest.mark.parametrize("root", [None, "nowhere.npz"])
def test_a_missing_root_says_how_to_make_one(tmp_path, root):
    with pytest.raises(DataError, match=r"np\.savez\('data\.npz', images=images, labels=labels\)"):
        Arrays(root and tmp_path / root).load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"plain text"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.npz"):
        Arrays(tmp_path / "data.npz").load(tmp_path / "cache")


def test_a_single_array_is_not_enough(tmp_path):
    np.save(tmp_path / "images.npy", GREY)
    with pytest.raises(DataError, match=r"or a folder with images\.npy and labels\.npy, got .*images\.npy \("):
        Arrays(tmp_path / "images.npy").load(tmp_path / "cache")


def test_missing_arrays_are_named_with_those_that_are_there(tmp_path):
    np.savez(tmp_path / "data.npz", x=GREY, y=LABELS)
    with pytest.raises(DataError, match="Expected an array named labels in .*, got x, y;"):
        Arrays(tmp_path / "data.npz").load(tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="got no array"):
        Arrays(tmp_path / "empty").load(tmp_path / "cache")


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="dataset.test_share"):
        Arrays(test_share=0.0)
