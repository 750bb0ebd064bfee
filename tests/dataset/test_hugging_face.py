"""Data sets of Hugging Face, on the disk and in memory; skipped without the package `datasets`."""

import numpy as np
import pytest
from PIL import Image

import alframe
from alframe.dataset.hugging_face import HuggingFace
from alframe.errors import DataError

datasets = pytest.importorskip("datasets")
PIXELS = np.random.default_rng(0).integers(0, 256, (16, 8, 8), dtype=np.uint8)


@pytest.fixture
def whole():
    features = datasets.Features({"picture": datasets.Image(), "y": datasets.ClassLabel(names=["ok", "crack"])})
    return datasets.Dataset.from_dict(
        {"picture": [Image.fromarray(one) for one in PIXELS], "y": [int(i % 4 == 0) for i in range(16)]}, features
    )


def test_a_split_that_is_called_test_is_the_test_set(whole, tmp_path, caplog):
    parts = datasets.DatasetDict(
        {
            "train": whole.select(range(10)),
            "validation": whole.select(range(10, 12)),
            "test": whole.select(range(12, 16)),
        }
    )
    parts.save_to_disk(tmp_path / "parts")
    data = HuggingFace(root=tmp_path / "parts", size=8).load(tmp_path / "cache")
    assert np.array_equal(data.pool.pixels[:, 0], PIXELS[:10])
    assert np.array_equal(data.test.pixels[:, 0], PIXELS[12:])
    assert data.pool.labels.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]
    assert (data.pool.classes, data.normal) == (("ok", "crack"), (0,))
    assert "not used: validation" in caplog.text
    assert alframe.from_hugging_face(parts, size=8).content_hash == data.content_hash


def test_a_share_is_the_test_set_otherwise(whole, tmp_path):
    whole.save_to_disk(tmp_path / "whole")
    data = alframe.from_hugging_face(whole, size=4)
    assert (len(data.pool), len(data.test)) == (12, 4)
    assert data.pool.shape == (1, 4, 4)
    assert HuggingFace(root=tmp_path / "whole", size=4).load(tmp_path / "cache").content_hash == data.content_hash


def test_what_is_wrong_is_told(whole, tmp_path):
    with pytest.raises(DataError, match="a column pictur in the data set, got picture, y; did you mean 'picture'"):
        alframe.from_hugging_face(whole, image="pictur")
    with pytest.raises(DataError, match="a folder that datasets saved"):
        HuggingFace(root=tmp_path).load(tmp_path / "cache")
    with pytest.raises(DataError, match="got None; save one by"):
        HuggingFace().load(tmp_path / "cache")
