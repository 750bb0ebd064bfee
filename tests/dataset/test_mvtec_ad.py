"""MVTec AD: its layout, the stratified split over both folders, and the groups that measure its shortcut."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from alframe.dataset.mvtec_ad import MvtecAd
from alframe.errors import ConfigError, DataError

SCREW = Path(__file__).parents[3] / "shared" / "data" / "mvtec_ad_256" / "screw"
COUNTS = {"train/good": 20, "test/good": 10, "test/crack": 6, "test/poke": 6, "ground_truth/crack": 6}


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root, rng = tmp_path / "mvtec" / "bottle", np.random.default_rng(0)
    for folder, n in COUNTS.items():
        (root / folder).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(root / folder / f"{i:03}.png")
    (root / "license.txt").write_text("CC BY-NC-SA 4.0")
    return root


def test_good_and_defective_come_from_both_folders_and_masks_are_left_out(category, tmp_path):
    data = MvtecAd(category, size=8, test_share=0.5).load(tmp_path / "cache")
    assert data.name == "mvtec_ad/bottle"
    assert data.pool.classes == ("good", "defective")
    for images in (data.pool, data.test):
        assert np.bincount(images.labels).tolist() == [15, 6]
        assert np.bincount(images.groups).tolist() == [10, 11]
        assert not any("ground_truth" in name for name in images.names)
    assert not set(data.pool.names) & set(data.test.names)


def test_defect_types_are_classes_after_good(category, tmp_path):
    data = MvtecAd(category, size=8, task="defect_type", test_share=0.5).load(tmp_path / "cache")
    assert data.pool.classes == ("good", "crack", "poke")
    assert np.bincount(data.test.labels).tolist() == [15, 3, 3]
    for name, label in zip(data.test.names, data.test.labels, strict=True):
        assert name.split("/")[1] == data.test.classes[label]


def test_both_tasks_split_alike(category, tmp_path):
    binary, types = (MvtecAd(category, size=8, task=task).load(tmp_path) for task in ("binary", "defect_type"))
    assert binary.test.names == types.test.names


def test_images_are_normalised_one_by_one(category, tmp_path):
    data = MvtecAd(category, size=8).load(tmp_path)
    assert data.normalization == "image"
    assert data.augment.brightness > 0


def test_the_folder_of_all_categories_is_recognised(category, tmp_path):
    with pytest.raises(DataError, match=r"without train/good; set dataset\.root=.*bottle"):
        MvtecAd(category.parent).load(tmp_path)


@pytest.mark.parametrize("root", [None, "nowhere"])
def test_a_missing_root_says_how_to_get_the_data(root, tmp_path):
    with pytest.raises(DataError, match=r"train/good and test/<defect>.*download MVTec AD"):
        MvtecAd(root and tmp_path / root).load(tmp_path)


def test_a_category_without_defects_is_refused(category, tmp_path):
    for folder in ("crack", "poke"):
        (category / "test" / folder).rename(category / folder)
    with pytest.raises(DataError, match="at least one folder of defects"):
        MvtecAd(category).load(tmp_path)


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="test_share"):
        MvtecAd(test_share=1.0)


@pytest.mark.skipif(not SCREW.is_dir(), reason="the screw category is not beside the repository")
def test_groups_measure_the_exposure_shortcut_of_screw(tmp_path):
    pool = MvtecAd(SCREW, size=32, test_share=0.3).load(tmp_path).pool
    good = pool.labels == 0
    brightness = pool.pixels.reshape(len(pool), -1).mean(1)
    assert pool.shape == (1, 32, 32)
    assert roc_auc_score(pool.groups[good], -brightness[good]) > 0.9  # test/good is darker than train/good
