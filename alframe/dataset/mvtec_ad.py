"""MVTec AD, turned from anomaly detection into classification: one category folder in the original layout."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from alframe.dataset.augment import Augmentation
from alframe.dataset.decode import Size
from alframe.dataset.files import Files, existing_folder, images_in
from alframe.dataset.normal import with_normal
from alframe.dataset.split import Sampled
from alframe.dataset.walk import list_folders
from alframe.errors import DataError
from alframe.images import Augment, Data
from alframe.part import Change, moved

GOOD = "good"
SOURCES = ("train", "test")
WHAT = "a category folder of MVTec AD (with train/good and test/<defect> in it)"
HOW = (
    "download MVTec AD from its makers (CC BY-NC-SA 4.0), unpack it and set dataset.root to one category, "
    "as in dataset.root=mvtec_ad/screw"
)
AUGMENTATION = Augmentation(flip=True, vertical_flip=True, crop=8, brightness=0.2)


@dataclass(frozen=True)
class MvtecAd(Sampled):
    """Grey or RGB photos of one product, uint8 [n, c, size, size]: good, or with one of several defects.

    `task`: "binary" (good, defective) or "defect_type" (good, and each defect folder). The folders train and test are put
    together, and `test_share` of every (folder, defect) stratum is the test set, fixed by `split_seed`. Masks are not read.
    Groups: 0 from train, 1 from test. Beware of a shortcut: in some categories the two folders differ in exposure (in `screw`
    test/good is about 14 grey levels darker than train/good), and all defects come from test. That is why each image is normalised
    by itself; train on the groups as labels to measure the shortcut, and compare the recall of good images between them.
    Raises DataError where `root` is not such a folder. Source: Bergmann et al. 2019 (CVPR) and 2021 (IJCV). Differs: all of it.
    """

    root: str | Path | None = None
    task: Literal["binary", "defect_type"] = "binary"
    size: Size = 128
    channels: Literal[1, 3] | None = None
    test_share: float = 0.3
    normalization: Literal["pool", "image"] = field(default="image", kw_only=True)
    augmentation: Augment | None = AUGMENTATION

    changeable_on_resume: ClassVar[Mapping[str, Change]] = {"root": moved}

    def load(self, cache: Path) -> Data:
        files = self._files()
        typed = files.load(cache, f"mvtec_ad-{files.root.name}", size=self.size, channels=self.channels)
        assert typed.groups is not None
        images = typed
        if self.task == "binary":
            images = replace(typed, labels=np.minimum(typed.labels, 1), classes=(GOOD, "defective"))
        pool, test = self.divide(images, typed.labels * len(SOURCES) + typed.groups, self.test_share)
        data = Data(f"mvtec_ad/{files.root.name}", pool, test, self.augmentation, self.normalization, files.root)
        return with_normal(data, self.normal, known=(0,))

    def _files(self) -> Files:
        root = existing_folder(self.root, WHAT, HOW).resolve()
        missing = [folder for folder in ("train/good", "test") if not (root / folder).is_dir()]
        if missing:
            categories = sorted(path.parent.parent.name for path in root.glob("*/train/good"))
            advice = (
                f"set dataset.root={root / categories[0]}, or another of {', '.join(categories)}" if categories else HOW
            )
            raise DataError(f"Expected dataset.root to be {WHAT}, got {root} without {missing[0]}; {advice}.")
        found = [
            (file, kind, source)
            for source in SOURCES
            for kind in list_folders(root / source)
            for file in images_in(root / source / kind)
        ]
        classes = (GOOD, *sorted({kind for _, kind, _ in found} - {GOOD}))
        if len(classes) == 1:
            raise DataError(f"Expected at least one folder of defects in {root / 'test'}, got only {GOOD}; {HOW}.")
        return Files(
            root,
            tuple(file for file, _, _ in found),
            np.array([classes.index(kind) for _, kind, _ in found], dtype=np.int64),
            classes,
            np.array([SOURCES.index(source) for _, _, source in found], dtype=np.int64),
        )
