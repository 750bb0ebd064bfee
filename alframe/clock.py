"""The clock of a run. This one only times stages; `record.profile.Profile` also looks inside them."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass
class Stopwatch:
    """The seconds that a stage took, set when it ends."""

    seconds: float = 0.0


class Clock:
    """Times the stages of a round, and nothing else."""

    def round(self, number: int) -> AbstractContextManager[object]:
        """A whole round, from its preparation to its commit."""
        return nullcontext()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """A part of a round, one of `record.profile.STAGES`; stages do not nest."""
        watch, start = Stopwatch(), time.perf_counter()
        yield watch
        watch.seconds = time.perf_counter() - start

    def preparing(self, name: str, function: Function) -> Function:
        """Wrap `function`, which prepares images for a network, so that its time counts as data preparation."""
        return function

    def reading(self, take: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap `take`, which reads a batch of images, so that its time and its images are counted."""
        return take

    def streaming(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """Wrap an iterator of batches so that its time and its images are counted."""
        return batches

    def report(self) -> list[str]:
        """The measurements as lines of text."""
        return []
