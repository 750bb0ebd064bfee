"""Names of the parts of a data set, in any case and spelling."""

import pytest

from alframe.dataset.splits import TEST, TRAIN, VALIDATION, split_of


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (
            (
                "train",
                "Training",
                "TRAIN",
                "training_set",
                "train-images",
                "Train Data",
                "trainset",
                "trn",
                "train2017",
            ),
            TRAIN,
        ),
        (("val", "valid", "Validation", "VAL", "validation_set", "dev", "valid.data"), VALIDATION),
        (("test", "Testing", "TEST", "test_set", "Test-Images", "testdata", "eval", "holdout"), TEST),
        (("trainer", "tested_ok", "good", "crack", "values", "valve", "set", "contest", "", "rain", "1"), None),
    ],
)
def test_what_a_name_stands_for(names, split):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)
