"""What a dataset is: one method. A new one is a file with a class like this, and a YAML of the same name."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from alframe.images import Data


@runtime_checkable
class Dataset(Protocol):
    """A source of images. Its constructor checks its arguments and reads nothing; `load` reads."""

    def load(self, cache: Path) -> Data:
        """Decode (once: later calls map `cache`) and split. The split depends on the constructor's arguments alone."""
        ...
