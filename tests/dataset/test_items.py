"""Indexed data sets from Python: torchvision's and whatever behaves like them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import alframe
from alframe.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 6, 8, 3), dtype=np.uint8)
LABELS = [0, 1, 2] * 4


class Items:
    classes = ("a", "b", "c")

    def __init__(self, convert, labels=LABELS):
        self.convert, self.labels = convert, labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.convert(PIXELS[i]), self.labels[i]


@pytest.mark.parametrize(
    "convert",
    [
        Image.fromarray,
        lambda image: image,
        lambda image: torch.from_numpy(image).permute(2, 0, 1),
        lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
    ],
    ids=["PIL", "array", "tensor", "float tensor"],
)
def test_images_of_every_kind_are_read(convert):
    data = alframe.from_dataset(Items(convert), test=Items(convert, LABELS[:3]))
    assert np.array_equal(data.pool.pixels, PIXELS.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.pixels, data.pool.pixels[:3])
    assert data.pool.labels.tolist() == LABELS
    assert data.pool.classes == ("a", "b", "c")
    assert data.name == "items"


def test_a_share_is_the_test_set_and_images_are_resized():
    data = alframe.from_dataset(Items(Image.fromarray), size=(4, 5), channels=1, classes=["x", "y", "z"])
    assert data.pool.shape == (1, 4, 5)
    assert (len(data.pool), len(data.test)) == (9, 3)
    assert sorted(data.test.labels.tolist()) == [0, 1, 2]
    expected = Image.fromarray(PIXELS[0]).convert("L").resize((5, 4), Image.Resampling.BILINEAR)
    everything = np.concatenate([data.pool.pixels, data.test.pixels])
    assert (everything == np.asarray(expected)).all(axis=(1, 2, 3)).any()


def test_torchs_own_data_sets_work():
    data = alframe.from_dataset(TensorDataset(torch.rand(8, 1, 4, 4), torch.tensor([0, 1] * 4)))
    assert data.pool.shape == (1, 4, 4)
    assert data.pool.classes == ("0", "1")


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (lambda image: torch.randn(3, 4, 4), "of floats in .* in item 0, got float32 .* leave out a normalising transform"),
        (lambda image: "x" if image is None else 3, "an image of PIL, an array or a tensor in item 0, got int"),
        (lambda image: np.zeros((4, 4, 2), np.uint8), r"in item 0, got uint8 \[4, 4, 2\]"),
        (lambda image: image[: 3 if image is PIXELS[0] else 4], "one size"),
    ],
)  # fmt: skip
def test_other_images_are_told(item, told):
    if told == "one size":
        sizes = iter([4] + [5] * 20)
        item = lambda image: image[: next(sizes)]  # noqa: E731
    with pytest.raises(DataError, match=told):
        alframe.from_dataset(Items(item))


@pytest.mark.parametrize(("labels", "got"), [(["cat"] * 4, "'cat'"), ([0, 1.5] * 2, "1.5"), ([-1] * 4, "-1")])
def test_other_labels_are_told(labels, got):
    with pytest.raises(DataError, match=f"a whole number from 0 on as the label of item ., got {got}"):
        alframe.from_dataset(Items(Image.fromarray, labels))


def test_items_without_labels_are_told():
    with pytest.raises(DataError, match=r"Expected \(image, label\) from item 0 of the data set, got Image"):
        alframe.from_dataset([Image.new("L", (4, 4))])
