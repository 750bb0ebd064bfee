"""The clock that is handed to whatever takes time in a round. This one only times stages; `record.profile.Profile` sees inside."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass
class Stopwatch:
    """The seconds of a stage, once it is over."""

    seconds: float = 0.0


class Clock:
    """Times the stages of a round, and nothing else."""

    def round(self, number: int) -> AbstractContextManager[object]:
        """A whole round, from its preparation to its commit."""
        return nullcontext()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stopwatch]:
        """A part of a round, one of `record.times.STAGES`; stages do not lie in each other."""
        watch, start = Stopwatch(), time.perf_counter()
        yield watch
        watch.seconds = time.perf_counter() - start

    def preparing(self, name: str, function: Function) -> Function:
        """`function`, which makes images ready for a network (`name` says how), with its time counted as such."""
        return function

    def reading(self, take: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`take`, which reads a batch of images, with its time and its images counted."""
        return take

    def streaming(self, batches: Iterator[Tensor]) -> Iterator[Tensor]:
        """`batches` of images as they are read, with their time and images counted."""
        return batches

    def report(self) -> list[str]:
        """What was measured, in lines for a person."""
        return []
