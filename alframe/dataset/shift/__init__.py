"""Changes that a study makes to the pool before anything else reads it. The test set is not changed."""

from alframe.dataset.shift.base import Shift, Shifted

__all__ = ["Shift", "Shifted"]
