"""Names that people give to the parts of a data set: training, validation, test, in any case and spelling."""

import re

TRAIN, VALIDATION, TEST = 0, 1, 2
_WORDS = {
    TRAIN: ("train", "training", "trainset", "traindata", "trn"),
    VALIDATION: ("val", "valid", "validation", "validate", "dev", "valset"),
    TEST: ("test", "testing", "testset", "testdata", "tst", "eval", "evaluation", "holdout"),
}


def split_of(name: str) -> int | None:
    """TRAIN, VALIDATION or TEST if `name` is a common word for it (`Training_Set`, `TEST`, `val-images`), else None."""
    word = re.sub(r"[\s_\-.]+|(19|20)\d\d$", "", name.casefold())  # train2017
    for ending in ("", "set", "data", "images", "imgs", "split"):
        stem = word.removesuffix(ending) if ending else word
        for split, words in _WORDS.items():
            if stem in words:
                return split
    return None
