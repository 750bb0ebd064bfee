"""Solar cells photographed by electroluminescence: defective or not. The photos come with a Python package."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from alframe.dataset.augment import SURFACE
from alframe.dataset.files import Files
from alframe.dataset.normal import with_normal
from alframe.dataset.split import Sampled
from alframe.errors import ConfigError, DataError, expect
from alframe.images import Augment, Data

GRADES = ("0", "1/3", "2/3", "1")
CELL_TYPES = ("mono", "poly")


@dataclass(frozen=True)
class Elpv(Sampled):
    """2,624 grey photos of solar cells (300x300 at the source), uint8 [n, 1, size, size], with graded defect probability.

    `task`: "binary" (good; defective from probability `threshold` on) or "grades" (0, 1/3, 2/3, 1; `normal` null: those below
    it). The test set is `test_share` of the cells, stratified by grade and cell type and fixed by `split_seed`. Groups: 0 mono-, 1 polycrystalline.
    Raises ConfigError if the package is not installed. The photos are CC BY-NC-SA 4.0.
    Source: Deitsch et al. 2019, arXiv:1807.02894; Buerhop-Lutz et al. 2018. Differs: the authors split 75:25 at random, by cell type.
    """

    size: int | None = 64
    task: Literal["binary", "grades"] = "binary"
    threshold: float = 0.5
    test_share: float = 0.25
    augmentation: Augment | None = SURFACE

    def __post_init__(self) -> None:
        super().__post_init__()
        expect(0 < self.threshold <= 1, f"Expected dataset.threshold above 0 and at most 1, got {self.threshold}.")

    def load(self, cache: Path) -> Data:
        files = _files()
        graded = files.load(cache, "elpv", size=self.size, channels=1, source=version("elpv-dataset"))
        assert graded.groups is not None
        if self.task == "grades":
            images = graded
        else:
            defective = graded.labels / 3 >= self.threshold - 1e-6
            images = replace(graded, labels=defective.astype(np.int64), classes=("good", "defective"))
        pool, test = self.divide(images, graded.labels * len(CELL_TYPES) + graded.groups, self.test_share)
        grades = range(len(GRADES)) if self.task == "grades" else (0,)
        known = tuple(grade for grade in grades if grade / 3 < self.threshold - 1e-6)
        data = Data("elpv", pool, test, self.augmentation, self.normalization, files.root)
        return with_normal(data, self.normal, known)


def _files() -> Files:
    """The package's photos: labels are grades 0 to 3, groups are cell types."""
    spec = find_spec("elpv_dataset")
    if spec is None or spec.origin is None:
        raise ConfigError("Expected the package elpv-dataset, got none installed; pip install 'alframe[elpv]'.")
    root = Path(spec.origin).parent / "data"
    try:
        rows = [line.split() for line in (root / "labels.csv").read_text().splitlines() if line.strip()]
        grades = np.array([round(3 * float(probability)) for _, probability, _ in rows], dtype=np.int64)
        cells = np.array([CELL_TYPES.index(cell) for _, _, cell in rows], dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError(
            f"Expected the labels of elpv-dataset in {root / 'labels.csv'}, got: {error}; reinstall it with pip install --force-reinstall elpv-dataset."
        ) from error
    return Files(root, tuple(root / row[0] for row in rows), grades, GRADES, cells)
