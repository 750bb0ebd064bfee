"""Folders of images: both layouts, and every way in which they go wrong."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alframe.dataset.image_folder import ImageFolder
from alframe.errors import ConfigError, DataError


def fill(folder: Path, n: int, *, side: int = 8, colour: bool = False, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *folder.as_posix().encode()[-8:]])
    for i in range(n):
        shape = (side, side, 3) if colour else (side, side)
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{i}.png")


def flat(root: Path, **counts: int) -> Path:
    for name, n in (counts or {"cat": 12, "bird": 8}).items():
        fill(root / name, n)
    return root


def parted(root: Path) -> Path:
    for part, n in {"train": 6, "val": 3, "test": 4}.items():
        for name in ("ok", "bad"):
            fill(root / part / name, n)
    return root


def test_class_folders_become_classes_sorted_by_name(tmp_path):
    data = ImageFolder(flat(tmp_path / "photos"), size=8).load(tmp_path / "cache")
    assert data.pool.classes == ("bird", "cat")
    assert np.bincount(data.pool.labels).tolist() == [6, 9]
    assert np.bincount(data.test.labels).tolist() == [2, 3]
    assert data.pool.groups is None


def test_labels_pixels_and_names_belong_together(tmp_path):
    root = flat(tmp_path / "photos")
    data = ImageFolder(root, size=None).load(tmp_path / "cache")
    for images in (data.pool, data.test):
        for pixels, label, name in zip(images.pixels, images.labels, images.names, strict=True):
            assert name.split("/")[0] == images.classes[label]
            np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(root / name)))
    assert sorted([*data.pool.names, *data.test.names]) == sorted(
        path.relative_to(root).as_posix() for path in root.glob("*/*.png")
    )


def test_train_and_val_are_the_pool_and_test_is_the_test_set(tmp_path):
    data = ImageFolder(parted(tmp_path / "photos"), size=8).load(tmp_path / "cache")
    assert np.bincount(data.pool.labels).tolist() == [9, 9]
    assert {name.split("/")[0] for name in data.pool.names} == {"train", "val"}
    assert {name.split("/")[0] for name in data.test.names} == {"test"}
    assert np.bincount(data.pool.groups).tolist() == [12, 6]
    assert set(data.test.groups) == {2}


def test_without_a_test_folder_a_share_of_train_and_val_is_the_test_set(tmp_path):
    root = tmp_path / "photos"
    for part in ("train", "valid"):
        flat(root / part, ok=8, bad=4)
    data = ImageFolder(root, size=8, test_share=0.5).load(tmp_path / "cache")
    assert np.bincount(data.test.labels).tolist() == [4, 8]
    assert np.bincount(data.test.groups).tolist() == [6, 6]


def test_a_class_may_be_called_train(tmp_path):
    data = ImageFolder(flat(tmp_path / "vehicles", train=6, tram=6), size=8).load(tmp_path / "cache")
    assert data.pool.classes == ("train", "tram")


def test_deeper_folders_count_and_hidden_files_do_not(tmp_path):
    root = flat(tmp_path / "photos", a=4, b=4)
    fill(root / "a" / "monday" / "camera 1", 3)
    fill(root / ".thumbnails", 2)
    fill(root / "a" / ".thumbnails", 2)
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "b" / "Thumbs.db").write_bytes(b"x")
    (root / "readme.txt").write_text("beside the class folders")
    data = ImageFolder(root, size=8).load(tmp_path / "cache")
    assert len(data.pool) + len(data.test) == 11


def test_a_pattern_chooses_the_files(tmp_path):
    root = flat(tmp_path / "photos", a=4, b=4)
    for name in "ab":
        fill(root / name / "masks", 4)
    data = ImageFolder(root, size=8, pattern="*.png").load(tmp_path / "cache")
    assert len(data.pool) + len(data.test) == 8


def test_sizes_of_pool_and_test_can_be_limited(tmp_path):
    root = flat(tmp_path / "photos", a=40, b=40)
    data = ImageFolder(root, size=8, pool_size=10, test_size=4).load(tmp_path / "cache")
    assert np.bincount(data.pool.labels).tolist() == [5, 5]
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    with pytest.raises(ConfigError, match=r"dataset.pool_size of at most 60"):
        ImageFolder(root, size=8, pool_size=61).load(tmp_path / "cache")


def test_images_are_decoded_once_until_a_file_changes(tmp_path):
    root, cache = flat(tmp_path / "photos"), tmp_path / "cache"
    first = ImageFolder(root, size=8).load(cache)
    again = ImageFolder(root, size=8, split_seed=1, test_share=0.5).load(cache)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1
    assert first.test.ids != again.test.ids
    os.utime(root / "cat" / "0.png", ns=(5, 5))
    ImageFolder(root, size=8).load(cache)
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 2


def test_a_missing_root_says_how_to_get_the_data(tmp_path):
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=rf"{root or 'null'}.*; buy a camera\."):
            ImageFolder(root, how_to_get="buy a camera").load(tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file \(a file\)"):
        ImageFolder(tmp_path / "file").load(tmp_path / "cache")


def test_a_class_folder_without_an_image_is_named(tmp_path):
    root = flat(tmp_path / "photos")
    (root / "dog").mkdir()
    with pytest.raises(DataError, match=r"at least one image in the class folder .*dog, got none"):
        ImageFolder(root).load(tmp_path / "cache")
    fill(root / "dog", 3)
    with pytest.raises(DataError, match=r"at least one image matching \*\.jpg in the class folder .*bird"):
        ImageFolder(root, pattern="*.jpg").load(tmp_path / "cache")


@pytest.mark.parametrize("names", [(), ("only",)])
def test_fewer_than_two_classes_are_refused(tmp_path, names):
    root = tmp_path / "photos"
    root.mkdir()
    for name in names:
        fill(root / name, 3)
    with pytest.raises(
        DataError, match=f"two or more classes in .*photos, got (none|{''.join(names) and 'only only'})"
    ):
        ImageFolder(root).load(tmp_path / "cache")


def test_a_class_that_only_the_test_folder_has_is_named(tmp_path):
    root = parted(tmp_path / "photos")
    fill(root / "test" / "odd", 2)
    with pytest.raises(DataError, match=r"among bad, ok, got odd"):
        ImageFolder(root, size=8).load(tmp_path / "cache")


def test_a_broken_file_is_named_or_skipped_with_a_count(tmp_path, caplog):
    root = flat(tmp_path / "photos")
    (root / "cat" / "zero.png").touch()
    (root / "cat" / "notes.txt").write_text("not an image")
    with pytest.raises(DataError, match=r"got .*notes\.txt \(not an image\), .*zero.png \(the file is empty\); fix"):
        ImageFolder(root, size=8).load(tmp_path / "cache")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="alframe"):
            data = ImageFolder(root, size=8, skip_broken=True).load(tmp_path / "cache")
        assert len(data.pool) + len(data.test) == 20
        assert "skipped 2 broken files, the first is cat/notes.txt" in caplog.text


def test_a_class_of_broken_files_only_is_named(tmp_path):
    root = flat(tmp_path / "photos")
    (root / "dog").mkdir()
    (root / "dog" / "1.png").touch()
    with pytest.raises(DataError, match="readable image in each class folder, got none for dog"):
        ImageFolder(root, size=8, skip_broken=True).load(tmp_path / "cache")


def test_mixed_channel_counts_name_the_way_out(tmp_path):
    root = flat(tmp_path / "photos")
    fill(root / "dog", 3, colour=True)
    with pytest.raises(DataError, match=r"1 channel in .* and 3 channels in .*dog.*dataset\.channels=1"):
        ImageFolder(root, size=8).load(tmp_path / "cache")
    assert ImageFolder(root, size=8, channels=3).load(tmp_path / "cache").pool.shape == (3, 8, 8)
