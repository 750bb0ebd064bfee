"""The dataset interface: one method. A new dataset is a file with such a class, and a YAML of the same name."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alframe.errors import ConfigError
from alframe.images import Data
from alframe.part import Part
from alframe.record.layout import Layout

if TYPE_CHECKING:
    from alframe.dataset.growing import Growing


class Dataset(Part, ABC):
    """A source of images. Its constructor checks its arguments and reads nothing; `load` reads."""

    @classmethod
    def study(cls, options: Mapping[str, Any]) -> str | None:
        """The name of a study of the images that `options` lead to; None where the dataset's own name tells them from others."""
        return None

    @abstractmethod
    def load(self, cache: Path) -> Data:
        """Decode (once: later calls map `cache`) and split. The split depends only on the constructor's arguments."""

    @property
    def grows(self) -> bool:
        """Whether images may be added between rounds."""
        return False

    def growing(self, folder: Path, *, repair: bool = True) -> "Growing":
        """The history of a growing pool, stored in `folder`; with `repair` false nothing is written. Reads no image."""
        raise ConfigError(
            f"Expected the dataset that {folder} started with, which has a growing pool, got another one; use the same dataset."
        )


def history_of(dataset: Dataset, folder: Path, *, repair: bool = True) -> "Growing | None":
    """The pool history of the run in `folder`; None if the dataset is fixed, or was when the run started."""
    layout = Layout(folder)
    starts = dataset.grows and not layout.provenance.exists()
    return dataset.growing(folder, repair=repair) if starts or layout.history.exists() else None
