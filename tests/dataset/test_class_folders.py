"""How people lay out folders of labelled images: what becomes a class, the pool, the test set, and what is passed over."""

import numpy as np
import pytest
from PIL import Image

from alframe.console import what_was_found
from alframe.dataset.image_folder import ImageFolder
from alframe.errors import DataError


def lay_out(root, **folders):
    """Folders (with __ for /) with so many images each."""
    rng = np.random.default_rng(0)
    for name, n in folders.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (6, 6), np.uint8)).save(folder / f"{i}.png")
    return root


def load(root, **options):
    return ImageFolder(root=root, size=6, **options).load(root.parent / "cache")


@pytest.mark.parametrize(
    ("folders", "classes", "n_pool", "n_test", "test_from"),
    [
        ({"train__a": 4, "train__b": 4, "test__a": 2, "test__b": 2}, ("a", "b"), 8, 4, "test/"),
        ({"Training__a": 4, "Training__b": 4, "Testing__a": 2, "Testing__b": 2}, ("a", "b"), 8, 4, "Testing/"),
        ({"training_set__a": 4, "training_set__b": 4, "test_set__a": 3}, ("a", "b"), 8, 3, "test_set/"),
        ({"train__a": 4, "train__b": 4, "Test__a": 2, "VALID__b": 2}, ("a", "b"), 10, 2, "Test/"),
        ({"TRAIN__a": 6, "TRAIN__b": 6}, ("a", "b"), 9, 3, "25 % of each class, by dataset.test_share"),
        ({"a": 6, "b": 6}, ("a", "b"), 9, 3, "25 % of each class, by dataset.test_share"),
        ({"a": 6, "b": 6, "test__a": 2, "test__b": 2}, ("a", "b"), 12, 4, "test/"),
        ({"val__a": 3, "val__b": 3, "test__a": 2}, ("a", "b"), 6, 2, "test/"),
        ({"train": 6, "tram": 6}, ("train", "tram"), 9, 3, "25 % of each class, by dataset.test_share"),
    ],
)
def test_parts_are_recognised_in_any_case_and_spelling(tmp_path, folders, classes, n_pool, n_test, test_from):
    data = load(lay_out(tmp_path / "photos", **folders))
    assert data.pool.classes == classes
    assert (len(data.pool), len(data.test)) == (n_pool, n_test)
    assert data.test_from == test_from
    assert not data.passed_over


@pytest.mark.parametrize(
    ("folders", "classes", "passed"),
    [
        ({"a": 4, "b": 4, "test": 5}, ("a", "b"), "test/ (no class folders in it, 5 images)"),
        ({"train__a": 4, "train__b": 4, "c": 2}, ("a", "b"), "c/ (beside train/)"),
        ({"train__a": 4, "train__b": 4, "Test": 3}, ("a", "b"), "Test/ (no class folders in it, 3 images)"),
        ({"a": 4, "b": 4, ".": 2}, ("a", "b"), "2 images outside of any folder"),
    ],
)
def test_what_is_passed_over_is_told(tmp_path, folders, classes, passed):
    data = load(lay_out(tmp_path / "photos", **folders))
    assert data.pool.classes == classes
    assert data.passed_over == (passed,)
    assert what_was_found(data).endswith(f"; passed over: {passed}")


def test_a_line_says_what_was_found(tmp_path):
    root = lay_out(tmp_path / "photos", Training__ok=7, Training__crack=3, Testing__ok=2, Testing__crack=1)
    assert what_was_found(load(root)) == (
        f"found in {root}: 13 images: 4 crack, 9 ok; 10 in the pool, 3 to test (Testing/)"
    )


def test_a_line_says_what_was_found_among_unlabelled_photos(tmp_path):
    root = lay_out(tmp_path / "photos", unlabelled=5, ok=8, crack=4)
    (root / "unlabelled/a.heic").touch()
    (root / "unlabelled/a.heif").touch()
    data = load(root)
    assert what_was_found(data) == (
        f"found in {root}: 17 images: 4 crack, 8 ok, 5 without a label; 14 in the pool, 3 to test; passed over: "
        "1 .heic (pip install 'alframe[heic]', or convert to .jpg), 1 .heif (pip install 'alframe[heic]', or convert to .jpg)"
    )


@pytest.mark.parametrize(
    "folders", [{"train": 4, "test": 2}, {"Training": 4, "Validation": 2, "Testing": 2}, {"test__a": 3, "test__b": 3}]
)
def test_parts_without_classes_are_told(tmp_path, folders):
    with pytest.raises(
        DataError, match=f"got only {', '.join(sorted({name.split('__')[0] for name in folders}))}; sort the images"
    ):
        load(lay_out(tmp_path / "photos", **folders))


def test_classes_that_are_called_so_can_be_named(tmp_path):
    data = load(lay_out(tmp_path / "photos", test=6, eval=6), classes=["eval", "test"])
    assert data.pool.classes == ("eval", "test")


def test_loose_photos_are_pointed_to_the_folder_for_them(tmp_path):
    root = lay_out(tmp_path / "photos", **{".": 3})
    with pytest.raises(
        DataError, match=rf"got none; sort the 3 images that lie there into folders, or move them to {root}/unlabelled"
    ):
        load(root)


def test_a_growing_pool_knows_the_same_spellings(tmp_path):
    root = lay_out(tmp_path / "photos", unlabelled=4, Training__a=4, Training__b=4, Testing__a=2, Testing__b=2)
    data = load(root)
    assert data.pool.classes == ("a", "b")
    assert len(data.test) == 4
    assert len(data.folder_labels) == 8
