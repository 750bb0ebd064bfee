"""What a dataset is: one method. A new one is a file with a class like this, and a YAML of the same name."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from alframe.errors import ConfigError
from alframe.images import Data
from alframe.part import Part
from alframe.record.layout import Layout

if TYPE_CHECKING:
    from alframe.dataset.growing import Growing


class Dataset(Part, ABC):
    """A source of images. Its constructor checks its arguments and reads nothing; `load` reads."""

    @abstractmethod
    def load(self, cache: Path) -> Data:
        """Decode (once: later calls map `cache`) and split. The split depends on the constructor's arguments alone."""

    @property
    def grows(self) -> bool:
        """Whether more images may come between rounds."""
        return False

    def growing(self, folder: Path, *, repair: bool = True) -> "Growing":
        """The history of a pool that grows, kept in `folder`; with `repair` false nothing is written. Reads no image."""
        raise ConfigError(
            f"Expected the dataset that {folder} began with, whose pool grows, got {type(self).__name__}; name that one."
        )


def history_of(dataset: Dataset, folder: Path, *, repair: bool = True) -> "Growing | None":
    """The pool's history of the run in `folder`; None where the dataset is fixed, and in a run that began with a fixed one."""
    layout = Layout(folder)
    starts = dataset.grows and not layout.provenance.exists()
    return dataset.growing(folder, repair=repair) if starts or layout.history.exists() else None
