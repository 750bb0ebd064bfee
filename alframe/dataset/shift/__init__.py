"""What a study does to the pool before anything else sees it, features of a frozen trunk included. The test set stays as it is."""

from alframe.dataset.shift.base import Shift, Shifted

__all__ = ["Shift", "Shifted"]
